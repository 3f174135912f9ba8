"use strict";
(function () {
  const missing = (text) => text === "n/a" || text === "";
  const compare = (a, b, numeric) =>
    numeric ? parseFloat(a) - parseFloat(b) : a.localeCompare(b, undefined, { numeric: true });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("table.sortable thead button");
    if (!button) return;
    const head = button.parentElement;
    const body = head.closest("table").tBodies[0];
    const column = head.cellIndex;
    const numeric = head.classList.contains("number");
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const keyed = Array.from(body.rows, (row) => [row.cells[column].textContent.trim(), row]);
    keyed.sort(([a], [b]) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return sign * compare(a, b, numeric);
    });
    body.append(...keyed.map(([, row]) => row));
  });
})();
