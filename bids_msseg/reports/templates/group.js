"use strict";
(function () {
  const table = document.querySelector("table.cohort");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const shown = document.getElementById("shown");
  const value = (row, column) => row.cells[column].textContent.trim();
  const missing = (text) => text === "n/a" || text === "";
  const compare = (a, b, numeric) =>
    numeric ? a - b : a.localeCompare(b, undefined, { numeric: true });

  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const head = button.parentElement;
    const column = head.cellIndex;
    const numeric = head.classList.contains("number");
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const keyed = rows.map((row) => [value(row, column), row]);
    keyed.sort(([a], [b]) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return sign * compare(a, b, numeric);
    });
    body.append(...keyed.map(([, row]) => row));
  });

  document.getElementById("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      count += !row.hidden;
    }
    shown.textContent = count === rows.length ? "" : count + " of " + rows.length + " rows";
  });
  document.getElementById("tools").hidden = false;
})();
