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

  // ---- plots: drawn from the data block, redrawn when another column is chosen
  const data = JSON.parse(document.getElementById("data").textContent);
  const EVERYBODY = "everybody";
  const WIDTH = 640, LEFT = 108, RIGHT = 24;
  const measured = data.visits.filter((visit) => visit.load !== null);
  const readable = (name) => name.replace(/_/g, " ");

  function element(name, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, one] of Object.entries(attributes)) made.setAttribute(key, one);
    made.append(...children);
    return made;
  }
  const words = (text, x, y, anchor, kind) =>
    element("text", { x, y, "text-anchor": anchor, ...(kind && { class: kind }) }, text);

  /** Round steps of 1, 2 or 5 times a power of ten over a range. */
  function ticks(low, high, most) {
    const rough = (high - low) / most || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999999) * power;
    const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return Array.from({ length: Math.max(1, last - first) + 1 }, (_, i) => Number(((first + i) * step).toFixed(digits)));
  }
  function axis(marks, start, end) {
    const low = marks[0], high = marks[marks.length - 1];
    return (one) => start + ((one - low) / (high - low)) * (end - start);
  }
  function said(visit) {
    return `${visit.key}: ${visit.load.toFixed(2)} mL`;
  }
  function dot(visit, x, y, radius) {
    return element("circle", {
      cx: x.toFixed(1), cy: y.toFixed(1), r: radius, "data-participant": visit.participant,
      ...(visit.flagged && { class: "flagged" }),
    }, element("title", {}, said(visit)));
  }
  function fill(figure, height, label, parts) {
    const svg = figure.querySelector("svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
    svg.setAttribute("aria-label", label);
    svg.replaceChildren(...parts);
    mark();
  }

  /** Put dots side by side where they would lie on each other. */
  function swarm(visits, x, middle, room) {
    const radius = Math.max(1.5, Math.min(4.5, 4.5 * Math.sqrt(120 / Math.max(visits.length, 1))));
    const columns = new Map();
    return visits.map((visit) => {
      const column = Math.floor(x(visit.load) / (2 * radius));
      const number = columns.get(column) ?? 0;
      columns.set(column, number + 1);
      const away = Math.ceil(number / 2) * 2 * radius * (number % 2 ? -1 : 1);
      return dot(visit, x(visit.load), middle + Math.max(-room, Math.min(room, away)), radius);
    });
  }

  function byLevels(figure, column) {
    const levels = data.summary.filter((row) => row.column === column);
    const loads = measured.map((visit) => visit.load);
    const marks = ticks(0, Math.max(0.001, ...loads), 6);
    const x = axis(marks, LEFT, WIDTH - RIGHT);
    const tall = levels.length === 1 ? 120 : Math.max(44, Math.min(90, 300 / levels.length));
    const bottom = tall * levels.length + 8;
    const parts = marks.map((one) => element("line", { class: "grid", x1: x(one), x2: x(one), y1: 0, y2: bottom }));
    levels.forEach((row, i) => {
      const middle = (i + 0.5) * tall + 4, half = tall / 2 - 6;
      const inside = measured.filter((visit) => column === EVERYBODY || visit.levels[column] === row.level);
      parts.push(words(row.level.length > 15 ? row.level.slice(0, 14) + "…" : row.level, LEFT - 12, middle, "end", "name"));
      parts.push(words(`${row.visits} visit${row.visits === "1" ? "" : "s"}`, LEFT - 12, middle + 15, "end"));
      if (!inside.length) return;
      const [q1, median, q3] = ["load_q1_ml", "load_median_ml", "load_q3_ml"].map((name) => x(Number(row[name])));
      parts.push(element("rect", { class: "band", x: q1, y: middle - half, width: Math.max(1, q3 - q1), height: 2 * half, rx: 3 }));
      parts.push(element("line", { class: "median", x1: median, x2: median, y1: middle - half, y2: middle + half },
        element("title", {}, `median ${row.load_median_ml} mL`)));
      parts.push(...swarm(inside, x, middle, half));
    });
    for (const one of marks) parts.push(words(String(one), x(one), bottom + 16, "middle"));
    parts.push(words(`${data.load}, mL`, WIDTH - RIGHT, bottom + 34, "end"));
    const label = levels.map((row) => `${row.level}: median ${row.load_median_ml} mL of ${row.visits} visits`).join("; ");
    fill(figure, bottom + 40, `Lesion load by ${readable(column)}. ${label}`, parts);
  }

  function byNumber(figure, column) {
    const inside = measured.filter((visit) => visit.numbers[column] !== null);
    const values = inside.map((visit) => visit.numbers[column]);
    const across = ticks(Math.min(...values), Math.max(...values), 7);
    const up = ticks(0, Math.max(0.001, ...inside.map((visit) => visit.load)), 5);
    const bottom = 300, left = 52;
    const x = axis(across, left, WIDTH - RIGHT), y = axis(up, bottom, 30);
    const parts = up.flatMap((one) => [
      element("line", { class: "grid", x1: left, x2: WIDTH - RIGHT, y1: y(one), y2: y(one) }),
      words(String(one), left - 8, y(one) + 4, "end"),
    ]);
    for (const one of across) parts.push(words(String(one), x(one), bottom + 18, "middle"));
    parts.push(words(readable(column), WIDTH - RIGHT, bottom + 36, "end"), words(`${data.load}, mL`, 0, 10, "start"));
    const people = Map.groupBy ? Map.groupBy(inside, (one) => one.participant) : new Map();
    for (const [participant, visits] of people) {
      if (visits.length < 2) continue;
      const points = visits.map((one) => `${x(one.numbers[column]).toFixed(1)},${y(one.load).toFixed(1)}`).join(" ");
      parts.push(element("polyline", { points, "data-participant": participant }));
    }
    const radius = Math.max(2, Math.min(4.5, 60 / Math.sqrt(inside.length || 1)));
    parts.push(...inside.map((visit) => dot(visit, x(visit.numbers[column]), y(visit.load), radius)));
    fill(figure, bottom + 42, `Lesion load of ${inside.length} visits against ${readable(column)}`, parts);
  }

  function byRegion(figure) {
    const visits = data.visits.filter((visit) => visit.regions && !visit.excluded);
    const whole = (visit) => visit.regions.reduce((sum, one) => sum + one, 0);
    visits.sort((a, b) => whole(b) - whole(a));
    const marks = ticks(0, Math.max(0.001, ...visits.map(whole)), 6);
    const step = Math.max(3, Math.min(20, 600 / visits.length));
    const named = step >= 11;
    const left = named ? LEFT : 8;
    const x = axis(marks, left, WIDTH - RIGHT), bottom = step * visits.length + 6;
    const parts = marks.map((one) => element("line", { class: "grid", x1: x(one), x2: x(one), y1: 0, y2: bottom }));
    visits.forEach((visit, i) => {
      const bar = element("g", { class: "bar-row", "data-participant": visit.participant },
        element("title", {}, `${visit.key}: ` + visit.regions.map((one, r) => `${readable(data.regions[r])} ${one.toFixed(2)} mL`).join(", ")),
        element("rect", { class: "hit", x: 0, y: i * step, width: WIDTH, height: step }));
      let from = 0;
      visit.regions.forEach((one, r) => {
        if (one > 0) {
          bar.append(element("rect", {
            x: x(from), y: i * step + step * 0.12, width: Math.max(0.5, x(from + one) - x(from)),
            height: step * 0.76, style: `fill: var(--${data.regions[r]})`,
          }));
        }
        from += one;
      });
      if (named) bar.append(words(visit.key.replace(/^sub-/, ""), left - 8, (i + 0.72) * step, "end", "name"));
      parts.push(bar);
    });
    for (const one of marks) parts.push(words(String(one), x(one), bottom + 16, "middle"));
    parts.push(words("lesion load, mL", WIDTH - RIGHT, bottom + 34, "end"));
    fill(figure, bottom + 40, `Lesion load of ${visits.length} visits by region`, parts);
  }

  // ---- one participant, seen everywhere
  const select = document.getElementById("participant");
  const chosen = document.getElementById("chosen");
  const invitation = chosen.textContent;
  let pinned = "", pointed = "", focused = "";

  function mark() {
    const now = pointed || focused || pinned;
    document.body.classList.toggle("focus", Boolean(now));
    for (const one of document.querySelectorAll("[data-participant]")) {
      one.classList.toggle("lit", one.dataset.participant === now);
    }
    const visits = data.visits.filter((visit) => visit.participant === now);
    chosen.replaceChildren(now ? visits.map((visit) =>
      visit.load === null ? `${visit.key}: no load` : said(visit)).join(" · ") + " " : invitation);
    if (visits.length) {
      const link = document.createElement("a");
      link.href = visits[0].link;
      link.textContent = "open the report";
      chosen.append(link);
    }
  }
  function pin(participant) {
    pinned = participant === pinned ? "" : participant;
    select.value = pinned;
    mark();
  }
  const owner = (event) => event.target.closest?.("[data-participant]")?.dataset.participant ?? "";
  document.addEventListener("pointerover", (event) => {
    const next = owner(event);
    if (next === pointed) return;
    pointed = next;
    mark();
  });
  document.addEventListener("focusin", (event) => {
    focused = owner(event);
    mark();
  });
  document.addEventListener("click", (event) => {
    if (owner(event) && !event.target.closest("a")) pin(owner(event));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    pointed = focused = "";
    pin(pinned);
  });
  select.addEventListener("change", () => {
    pinned = "";
    pin(select.value);
  });

  function setUp(name, columns, draw) {
    const figure = document.querySelector(`[data-plot="${name}"]`);
    const menu = figure.querySelector("select");
    if (!measured.length || !columns.length) return;
    figure.hidden = false;
    if (!menu) return draw(figure);
    menu.append(...columns.map((column) => new Option(readable(column), column)));
    menu.addEventListener("change", () => draw(figure, menu.value));
    draw(figure, menu.value);
  }
  document.getElementById("toolbar").hidden = !measured.length;
  const nice = ["site", "group", "centre", "center"].filter((one) => data.levels.includes(one));
  const first = [...nice, EVERYBODY, ...data.levels.filter((one) => !nice.includes(one))];
  setUp("levels", first, byLevels);
  setUp("numbers", data.numbers, byNumber);
  setUp("regions", data.regions, byRegion);
})();
