"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const MISSING = "n/a", EVERYBODY = "everybody";
  const WIDTH = 640, LEFT = 108, RIGHT = 24, REACH = 8;
  const MAX_BARS = 200, MAX_NAMES = 20;

  // ---- the visits, by their place in the data block
  const unpack = (packed) => (Array.isArray(packed) ? packed : packed.codes.map((code) => packed.levels[code]));
  const columns = data.columns.map((column) => ({ ...column, values: unpack(column.values) }));
  const valuesOf = (name) => columns.find((column) => column.name === name).values;
  const participants = valuesOf("participant_id");
  const statuses = valuesOf("status");
  const sessions = unpack(data.sessions);
  const flags = unpack(data.flags);
  const levels = new Map(data.levels.map(([name, packed]) => [name, unpack(packed)]));
  const numbers = new Map(data.numbers);
  const { loads, pictures, regions } = data;
  const excluded = new Set(data.excluded);
  const every = participants.map((_, visit) => visit);
  const measured = every.filter((visit) => loads[visit] !== null);
  const names = [...new Set(participants)];
  const keyOf = (visit) => participants[visit] + (sessions[visit] === null ? "" : `_ses-${sessions[visit]}`);
  const anchorOf = (visit) => (sessions[visit] === null ? "visit" : `ses-${sessions[visit]}`);
  const linkOf = (visit) => `${encodeURIComponent(`${participants[visit]}.html`)}#${anchorOf(visit)}`;
  const describe = (visit) => `${keyOf(visit)}: ${loads[visit] === null ? "no load" : `${loads[visit].toFixed(2)} mL`}`;
  const readable = (name) => name.replace(/_/g, " ");

  // ---- state
  const table = document.querySelector("table.cohort");
  const shown = document.getElementById("shown");
  const pager = document.getElementById("pager");
  const sheet = document.getElementById("sheet");
  const chooser = document.getElementById("participant");
  const suggestions = document.getElementById("participants");
  const chosen = document.getElementById("chosen");
  const invitation = chosen.textContent;
  const plots = new Map(); // figure to what is drawn in it
  const texts = []; // what a search looks through, made when it is first needed
  let sorted = every, found = every; // visits in order, and those that search and filter leave
  let first = 0, rows = data.rows; // what the table shows of them
  let wanted = [], flag = "";
  let pinned = "", pointed = "", focused = "";

  // ---- table
  const isNumber = (column) => column.digits !== null;
  const isMissing = (value) => value === null || value === "" || value === MISSING;
  function cell(column, visit) {
    const value = column.values[visit];
    if (!isNumber(column)) return value;
    return value === null ? MISSING : value.toFixed(column.digits);
  }
  function html(name, properties, ...children) {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  }
  function belong(node, visit) {
    node.dataset.participant = participants[visit];
    if (excluded.has(visit)) node.className = "struck";
    return node;
  }
  function drawRow(visit) {
    const [name, ...others] = columns;
    const cells = others.map((column) => {
      const node = html("td", {}, cell(column, visit));
      if (isNumber(column)) node.className = "number";
      else if (column.tag) node.className = `tag ${cell(column, visit)}`;
      return node;
    });
    const head = html("th", { scope: "row" }, html("a", { href: linkOf(visit) }, cell(name, visit)));
    return belong(html("tr", {}, head, ...cells), visit);
  }
  function drawPicture(visit) {
    const image = html("img", { loading: "lazy", alt: `Lesions of ${keyOf(visit)} on FLAIR, thumbnail` });
    image.src = pictures[visit];
    const load = loads[visit] === null ? "no load" : `${loads[visit].toFixed(2)} mL`;
    const text = html("span", {}, `${keyOf(visit)} `, html("b", {}, load));
    return belong(html("a", { href: linkOf(visit) }, image, text), visit);
  }
  function count(last) {
    const all = found.length === every.length;
    const number = all ? `${every.length} rows` : `${found.length} of ${every.length} rows`;
    if (found.length > rows) return `${number}, ${first + 1} to ${last} shown`;
    return all ? "" : number;
  }
  function drawTable() {
    const visits = found.slice(first, first + rows);
    const last = first + visits.length;
    table.tBodies[0].replaceChildren(...visits.map(drawRow));
    shown.textContent = count(last);
    for (const button of pager.querySelectorAll("button")) {
      const back = button.dataset.turn === "first" || button.dataset.turn === "previous";
      // not "disabled", because a disabled button loses the keyboard focus
      button.setAttribute("aria-disabled", String(back ? first === 0 : last >= found.length));
    }
    if (sheet) {
      const seen = visits.filter((visit) => pictures[visit]);
      sheet.querySelector(".contact").replaceChildren(...seen.map(drawPicture));
      sheet.hidden = !seen.length;
    }
    mark();
  }
  /** Show the page of the table that a row stands on. */
  function turn(row) {
    const last = Math.max(0, Math.floor((found.length - 1) / rows) * rows);
    first = Math.max(0, Math.min(last, Math.floor(row / rows) * rows));
    table.parentElement.scrollTop = 0;
    drawTable();
  }
  function text(visit) {
    texts[visit] ??= [keyOf(visit), ...columns.map((column) => cell(column, visit))].join(" ").toLowerCase();
    return texts[visit];
  }
  function passes(visit) {
    if (flag === "") return true;
    if (flag === "flagged") return flags[visit].length > 0;
    if (flag === "unflagged") return flags[visit].length === 0;
    if (flag.startsWith("status-")) return statuses[visit] === flag.slice("status-".length);
    return flags[visit].includes(Number(flag));
  }
  function filter() {
    found = sorted.filter((visit) => passes(visit) && wanted.every((word) => text(visit).includes(word)));
    turn(0);
  }
  const collator = new Intl.Collator(undefined, { numeric: true });
  function sortBy(column, sign) {
    const compare = isNumber(column) ? (a, b) => a - b : collator.compare;
    sorted = [...every].sort((one, other) => {
      const a = column.values[one], b = column.values[other];
      if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
      return sign * compare(a, b);
    });
  }

  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const head = button.parentElement;
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    sortBy(columns[head.cellIndex], sign);
    filter();
  });
  document.getElementById("filter").addEventListener("input", (event) => {
    wanted = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    filter();
  });
  document.getElementById("flag").addEventListener("change", (event) => {
    flag = event.target.value;
    filter();
  });
  document.getElementById("rows").addEventListener("change", (event) => {
    rows = Number(event.target.value);
    turn(first);
  });
  pager.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    turn({ first: 0, previous: first - rows, next: first + rows, last: found.length - 1 }[button.dataset.turn]);
  });

  // ---- plots: few elements however many visits, redrawn when another column is chosen
  function element(name, attributes, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, one] of Object.entries(attributes)) node.setAttribute(key, one);
    node.append(...children);
    return node;
  }
  const words = (content, x, y, anchor, kind) =>
    element("text", { x, y, "text-anchor": anchor, ...(kind && { class: kind }) }, content);
  const largest = (values) => values.reduce((most, one) => Math.max(most, one), -Infinity);
  const smallest = (values) => values.reduce((least, one) => Math.min(least, one), Infinity);
  const at = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;

  /** Round steps of 1, 2 or 5 times a power of ten over a range. */
  function ticks(low, high, most) {
    const rough = (high - low) / most || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999999) * power;
    const start = Math.floor(low / step + 1e-9), end = Math.ceil(high / step - 1e-9);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return Array.from({ length: Math.max(1, end - start) + 1 }, (_, i) => Number(((start + i) * step).toFixed(digits)));
  }
  function axis(marks, start, end) {
    const low = marks[0], high = marks[marks.length - 1];
    return (one) => start + ((one - low) / (high - low)) * (end - start);
  }

  /** Draw all dots as three paths: of visits without a flag, and rings with their holes. */
  function dots(points, radius) {
    const path = (kind, some, width) =>
      element("path", { class: `dots ${kind}`, "stroke-width": width, d: some.map(({ x, y }) => `M${at(x, y)}h.01`).join("") });
    const flagged = points.filter(({ visit }) => flags[visit].length);
    const plain = points.filter(({ visit }) => !flags[visit].length);
    return [
      ...(plain.length ? [path("plain", plain, 2 * radius)] : []),
      ...(flagged.length ? [path("ring", flagged, 2 * radius + 2), path("hole", flagged, Math.max(1, 2 * radius - 2))] : []),
    ];
  }
  function light({ visit, x, y }, radius) {
    return element("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: radius + 1, "data-participant": participants[visit] },
      element("title", {}, describe(visit)));
  }
  /** Find the visit whose dot is nearest, if one is near. */
  function nearest(points) {
    return (x, y) => {
      let best = null, least = REACH ** 2;
      for (const one of points) {
        const away = (one.x - x) ** 2 + (one.y - y) ** 2;
        if (away <= least) {
          least = away;
          best = one.visit;
        }
      }
      return best;
    };
  }
  function fill(figure, height, label, parts, plot) {
    const svg = figure.querySelector("svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
    svg.setAttribute("aria-label", label);
    svg.replaceChildren(...parts, element("g", { class: "chosen" }));
    plots.set(figure, plot);
    mark();
  }

  /** Put dots side by side where they would lie on each other. */
  function swarm(visits, x, middle, room, radius) {
    const stacks = new Map();
    return visits.map((visit) => {
      const stack = Math.floor(x(loads[visit]) / (2 * radius));
      const number = stacks.get(stack) ?? 0;
      stacks.set(stack, number + 1);
      const away = Math.ceil(number / 2) * 2 * radius * (number % 2 ? -1 : 1);
      return { visit, x: x(loads[visit]), y: middle + Math.max(-room, Math.min(room, away)) };
    });
  }

  function byLevels(figure, column) {
    const summary = data.summary.filter((row) => row.column === column);
    const marks = ticks(0, Math.max(0.001, largest(measured.map((visit) => loads[visit]))), 6);
    const x = axis(marks, LEFT, WIDTH - RIGHT);
    const tall = summary.length === 1 ? 120 : Math.max(44, Math.min(90, 300 / summary.length));
    const bottom = tall * summary.length + 8;
    const parts = marks.map((one) => element("line", { class: "grid", x1: x(one), x2: x(one), y1: 0, y2: bottom }));
    const points = [];
    summary.forEach((row, i) => {
      const middle = (i + 0.5) * tall + 4, half = tall / 2 - 6;
      const inside = measured.filter((visit) => column === EVERYBODY || levels.get(column)[visit] === row.level);
      parts.push(words(row.level.length > 15 ? row.level.slice(0, 14) + "…" : row.level, LEFT - 12, middle, "end", "name"));
      parts.push(words(`${row.visits} visit${row.visits === "1" ? "" : "s"}`, LEFT - 12, middle + 15, "end"));
      if (!inside.length) return;
      const [q1, median, q3] = ["load_q1_ml", "load_median_ml", "load_q3_ml"].map((name) => x(Number(row[name])));
      parts.push(element("rect", { class: "band", x: q1, y: middle - half, width: Math.max(1, q3 - q1), height: 2 * half, rx: 3 }));
      const radius = Math.max(1.5, Math.min(4.5, 4.5 * Math.sqrt(120 / inside.length)));
      const here = swarm(inside, x, middle, half, radius).map((one) => ({ ...one, radius }));
      parts.push(...dots(here, radius));
      parts.push(element("line", { class: "median", x1: median, x2: median, y1: middle - half, y2: middle + half },
        element("title", {}, `median ${row.load_median_ml} mL`)));
      for (const one of here) points.push(one);
    });
    for (const one of marks) parts.push(words(String(one), x(one), bottom + 16, "middle"));
    parts.push(words(`${data.load}, mL`, WIDTH - RIGHT, bottom + 34, "end"));
    const label = summary.map((row) => `${row.level}: median ${row.load_median_ml} mL of ${row.visits} visits`).join("; ");
    fill(figure, bottom + 40, `Lesion load by ${readable(column)}. ${label}`, parts, {
      points, find: nearest(points), draw: (some) => some.map((one) => light(one, one.radius)),
    });
  }

  function byNumber(figure, column) {
    const values = numbers.get(column);
    const inside = measured.filter((visit) => values[visit] !== null);
    const known = inside.map((visit) => values[visit]);
    const across = inside.length ? ticks(smallest(known), largest(known), 7) : [0, 1];
    const up = ticks(0, Math.max(0.001, largest(inside.map((visit) => loads[visit]))), 5);
    const bottom = 300, left = 52;
    const x = axis(across, left, WIDTH - RIGHT), y = axis(up, bottom, 30);
    const parts = up.flatMap((one) => [
      element("line", { class: "grid", x1: left, x2: WIDTH - RIGHT, y1: y(one), y2: y(one) }),
      words(String(one), left - 8, y(one) + 4, "end"),
    ]);
    for (const one of across) parts.push(words(String(one), x(one), bottom + 18, "middle"));
    parts.push(words(readable(column), WIDTH - RIGHT, bottom + 36, "end"), words(`${data.load}, mL`, 0, 10, "start"));
    const points = inside.map((visit) => ({ visit, x: x(values[visit]), y: y(loads[visit]) }));
    const line = (some) => `M${some.map((one) => at(one.x, one.y)).join("L")}`;
    const people = new Map();
    for (const one of points) {
      const name = participants[one.visit];
      if (!people.has(name)) people.set(name, []);
      people.get(name).push(one);
    }
    const lines = [...people.values()].filter((some) => some.length > 1).map(line);
    if (lines.length) parts.push(element("path", { class: "joins", d: lines.join("") }));
    const radius = Math.max(1.5, Math.min(4.5, 60 / Math.sqrt(inside.length || 1)));
    parts.push(...dots(points, radius));
    fill(figure, bottom + 42, `Lesion load of ${inside.length} visits against ${readable(column)}`, parts, {
      points,
      find: nearest(points),
      draw: (some) => [
        ...(some.length > 1 ? [element("path", { class: "joins", d: line(some), "data-participant": participants[some[0].visit] })] : []),
        ...some.map((one) => light(one, radius)),
      ],
    });
  }

  /** Draw one bar a visit, or the mean of neighbours in the order of loads where there are many. */
  function byRegion(figure) {
    const visits = every.filter((visit) => regions[0][1][visit] !== null && !excluded.has(visit));
    const whole = new Map(visits.map((visit) => [visit, regions.reduce((sum, [, values]) => sum + values[visit], 0)]));
    visits.sort((a, b) => whole.get(b) - whole.get(a));
    const size = Math.max(1, Math.ceil(visits.length / MAX_BARS));
    const bars = Math.ceil(visits.length / size);
    const marks = ticks(0, Math.max(0.001, largest([...whole.values()])), 6);
    const step = Math.max(3, Math.min(20, 600 / bars));
    const named = step >= 11 && size === 1;
    const left = named ? LEFT : 8;
    const x = axis(marks, left, WIDTH - RIGHT), bottom = step * bars + 6;
    const parts = marks.map((one) => element("line", { class: "grid", x1: x(one), x2: x(one), y1: 0, y2: bottom }));
    const from = new Array(bars).fill(0);
    for (const [name, values] of regions) {
      let path = "";
      for (let bar = 0; bar < bars; bar += 1) {
        const members = visits.slice(bar * size, (bar + 1) * size);
        const amount = members.reduce((sum, visit) => sum + values[visit], 0) / members.length;
        const start = x(from[bar]), end = Math.max(start + 0.5, x(from[bar] + amount));
        from[bar] += amount;
        if (amount > 0) path += `M${at(start, (bar + 0.12) * step)}H${end.toFixed(1)}v${(0.76 * step).toFixed(2)}H${start.toFixed(1)}z`;
      }
      if (path) parts.push(element("path", { class: "bars", d: path, style: `fill: var(--${name})` }));
    }
    const points = visits.map((visit, rank) => ({ visit, y: Math.floor(rank / size) * step }));
    if (named) points.forEach(({ visit, y }) => parts.push(words(keyOf(visit).replace(/^sub-/, ""), left - 8, y + 0.72 * step, "end", "name")));
    for (const one of marks) parts.push(words(String(one), x(one), bottom + 16, "middle"));
    parts.push(words("lesion load, mL", WIDTH - RIGHT, bottom + 34, "end"));
    parts.push(words(size > 1 ? `one bar: mean of ${size} visits` : "one bar per visit", left, bottom + 34, "start"));
    fill(figure, bottom + 40, `Lesion load of ${visits.length} visits by region`, parts, {
      points,
      find: (_, y) => visits[Math.floor((y / step) * size)] ?? null,
      draw: (some) => some.map(({ visit, y }) =>
        element("rect", { class: "frame", x: left, y, width: WIDTH - RIGHT - left, height: step, "data-participant": participants[visit] },
          element("title", {}, `${keyOf(visit)}: ` + regions.map(([name, values]) => `${readable(name)} ${values[visit].toFixed(2)} mL`).join(", ")))),
    });
  }

  // ---- one participant, seen everywhere
  function mark() {
    const now = pointed || focused || pinned;
    document.body.classList.toggle("focus", Boolean(now));
    for (const [figure, plot] of plots) {
      const some = now ? plot.points.filter(({ visit }) => participants[visit] === now) : [];
      figure.querySelector(".chosen").replaceChildren(...plot.draw(some));
    }
    for (const one of document.querySelectorAll("[data-participant]")) {
      one.classList.toggle("lit", one.dataset.participant === now);
    }
    const visits = now ? every.filter((visit) => participants[visit] === now) : [];
    chosen.replaceChildren(visits.length ? visits.map(describe).join(" · ") + " " : invitation);
    if (visits.length) chosen.append(html("a", { href: linkOf(visits[0]) }, "open the report"));
  }
  /** Turn to the page of the table where a participant stands, unless it is seen already. */
  function bringUp(participant) {
    const own = (visit) => participants[visit] === participant;
    const row = found.findIndex(own);
    if (row >= 0 && !found.slice(first, first + rows).some(own)) turn(row);
  }
  function pin(participant) {
    pinned = participant === pinned ? "" : participant;
    chooser.value = pinned;
    bringUp(pinned);
    mark();
  }
  function suggest() {
    const typed = chooser.value.trim().toLowerCase();
    const near = names.filter((name) => name.toLowerCase().includes(typed)).slice(0, MAX_NAMES);
    suggestions.replaceChildren(...near.map((name) => new Option(name, name)));
  }
  const labelled = (event) => event.target.closest?.("[data-participant]")?.dataset.participant ?? "";
  /** Name the participant under the pointer: of a row or picture, or of the nearest dot. */
  function owner(event) {
    const svg = event.target.closest?.(".plot svg");
    const plot = svg && plots.get(svg.closest(".plot"));
    if (!plot) return labelled(event);
    const box = svg.getBoundingClientRect();
    const scale = WIDTH / box.width;
    const visit = plot.find((event.clientX - box.left) * scale, (event.clientY - box.top) * scale);
    return visit === null ? "" : participants[visit];
  }
  function follow(event) {
    const next = owner(event);
    if (next === pointed) return;
    pointed = next;
    mark();
  }
  document.addEventListener("pointerover", follow);
  document.addEventListener("pointermove", follow);
  document.addEventListener("focusin", (event) => {
    focused = labelled(event);
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
  chooser.addEventListener("input", () => {
    const typed = chooser.value.trim();
    suggest();
    pinned = names.find((name) => name === typed || name === `sub-${typed}`) ?? "";
    bringUp(pinned);
    mark();
  });

  function setUp(name, choices, draw) {
    const figure = document.querySelector(`[data-plot="${name}"]`);
    const menu = figure.querySelector("select");
    if (!measured.length || !choices.length) return;
    figure.hidden = false;
    if (!menu) return draw(figure);
    menu.append(...choices.map((column) => new Option(readable(column), column)));
    menu.addEventListener("change", () => draw(figure, menu.value));
    draw(figure, menu.value);
  }
  document.getElementById("toolbar").hidden = !measured.length;
  document.getElementById("tools").hidden = false;
  pager.hidden = every.length <= data.rows;
  suggest();
  drawTable();
  const nice = ["site", "group", "centre", "center"].filter((one) => levels.has(one));
  const choices = [...nice, EVERYBODY, ...[...levels.keys()].filter((one) => !nice.includes(one))];
  setUp("levels", choices, byLevels);
  setUp("numbers", [...numbers.keys()], byNumber);
  setUp("regions", regions, byRegion);
})();
