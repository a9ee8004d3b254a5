// The live part of report.html: chart, hover, comparison, sorting. Text from the sweep only ever becomes textContent.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { slices, panels } = data;
  const $ = (id) => document.getElementById(id);
  const state = { task: panels.length - 1, size: "effective", bits: 16, active: null };

  // --- small things ---
  const node = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const svgNode = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const count = (n) => n.toLocaleString("en-US");
  const scaled = (value, units) => {
    const rounded = Number(value.toPrecision(3));
    const [unit, suffix] = units.find(([unit]) => rounded >= unit) || [1, ""];
    return `${(rounded / unit).toLocaleString("en-US", { maximumSignificantDigits: 3, minimumSignificantDigits: 3 })}${suffix}`;
  };
  const PARAMS = [[1e9, " B"], [1e6, " M"], [1e3, " K"]];
  const BYTES = [[1e9, " GB"], [1e6, " MB"], [1e3, " kB"]];
  const percent = (value) => (100 * value).toFixed(1);
  const shown = (panel, value) => (panel.percent ? percent(value) : value.toPrecision(4));
  const signed = (panel, value) => {
    const text = panel.percent ? (100 * value).toFixed(2) : value.toPrecision(3);
    return (value >= 0 ? "+" : "−") + text.replace("-", "");
  };

  // --- sizes ---
  const sizeOf = (slice) => (state.size === "bytes" ? (slice.total * state.bits) / 8 : slice[state.size]);
  const sizeText = (slice) => scaled(sizeOf(slice), state.size === "bytes" ? BYTES : PARAMS);
  const sizeName = () => state.size === "bytes" ? `bytes in ${$("dtype").selectedOptions[0].text}` : `${state.size} parameters`;
  const ranking = (panel) => panel.rank[state.size === "effective" ? "effective" : "total"];

  const points = (panel) => {
    const rank = ranking(panel);
    return panel.slices.map((index, at) => ({
      index, at, slice: slices[index], x: sizeOf(slices[index]), y: panel.value[at], low: panel.low[at], high: panel.high[at],
      verdict: rank.verdict[at], by: rank.by[at], pareto: rank.pareto[at], membership: rank.membership[at],
      published: panel.published[at],
    }));
  };
  const factor = (panel) => (panel.percent ? 100 : 1);
  const colour = (p) => (p.verdict === "dominated" ? "var(--muted)" : "var(--measured)");
  const fill = (p) => (p.verdict === "not separable" ? "var(--paper)" : colour(p));
  const shape = (p) => (p.slice.role === "parent" ? "square" : p.slice.role ? "triangle" : "circle");

  // --- charts ---
  // Charts are drawn for the room they have; paper has that of A4 between its margins.
  let printing = false;
  const roomIn = (element, padding = 0) => (printing ? 654 : Math.max(280, Math.floor(element.clientWidth) - padding));

  function plot(panel, width, height, small) {
    const all = points(panel);
    const by = factor(panel);
    const units = state.size === "bytes" ? BYTES : PARAMS;
    const [unit, suffix] = units.find(([u]) => Math.max(...all.map((p) => p.x)) >= u) || [1, ""];
    const x = (p) => p.x / unit;
    const y = (p) => p.y * by;
    const line = all.filter((p) => p.pareto).sort((a, b) => a.x - b.x);
    const overlay = data.published_fits ? all.filter((p) => p.published !== null) : [];
    const barred = all.filter((p) => p.low !== null);
    const chart = Plot.plot({
      width, height,
      marginLeft: small ? 26 : 46, marginRight: small ? 8 : 22, marginTop: small ? 8 : 16, marginBottom: small ? 20 : 44,
      style: { background: "transparent", color: "var(--soft)", fontSize: small ? "9px" : "12px" },
      x: { label: small ? null : `${sizeName()}${suffix ? ` (${suffix.trim()})` : ""}`, labelAnchor: "center", labelArrow: "none", ticks: small ? 3 : width < 500 ? 5 : 8, insetLeft: small ? 6 : 24, insetRight: small ? 6 : 24 },
      y: { label: small ? null : panel.percent ? "score, %" : panel.metric, labelArrow: "none", ticks: small ? 3 : 6, inset: small ? 4 : 14, nice: !small },
      symbol: { type: "identity" }, color: { type: "identity" }, r: { type: "identity" },
      marks: [
        Plot.gridY({ stroke: "var(--line)", strokeOpacity: 1, ticks: small ? 3 : 6 }),
        small ? null : Plot.ruleX(barred, { x, y1: (p) => p.low * by, y2: (p) => p.high * by, stroke: colour, strokeOpacity: 0.45, strokeWidth: 1.4 }),
        Plot.line(line, { x, y, stroke: "var(--measured)", strokeWidth: small ? 1.2 : 1.8 }),
        Plot.dot(overlay, { x, y: (p) => p.published * by, symbol: "diamond", r: small ? 2 : 4.4, stroke: "var(--published)", strokeWidth: small ? 0.8 : 1.4, className: "published" }),
        Plot.dot(all, { x, y, symbol: shape, fill, stroke: colour, strokeWidth: small ? 1 : 1.7, r: (p) => (small ? 0.5 : 1) * (p.verdict === "dominated" ? 3.8 : 5.2), className: "measured" }),
      ],
    });
    const at = (p) => ({ px: chart.scale("x").apply(x(p)), py: chart.scale("y").apply(y(p)) });
    return { svg: chart, all, line, overlay, at, yOf: (value) => chart.scale("y").apply(value * by) };
  }

  function drawThumbs() {
    document.querySelectorAll(".thumb").forEach((place, index) => {
      place.replaceChildren(plot(panels[index], 210, 104, true).svg);
    });
  }

  let drawn = null;
  function drawChart() {
    const panel = panels[state.task];
    const width = roomIn($("chart"));
    const height = Math.round(Math.min(520, Math.max(340, width * 0.5)));
    drawn = plot(panel, width, height, false);
    const { svg, all, at } = drawn;
    $("chart").replaceChildren(svg);
    svg.removeAttribute("role");
    $("chart-title").textContent = panel.title;
    const tally = (verdict) => all.filter((p) => p.verdict === verdict).length;
    $("summary").textContent = `${tally("on the frontier")} on the frontier · ${tally("not separable")} not separable at n = ${count(panel.n)} · ${tally("dominated")} dominated`;
    placeLabels(drawn, width, height);
    all.sort((a, b) => a.x - b.x || a.y - b.y);
    all.forEach((p, order) => {
      const { px, py } = at(p);
      const hit = svgNode("circle", { class: "hit", cx: px, cy: py, r: 10, tabindex: order === 0 ? 0 : -1, role: "button", "data-slice": p.index, "aria-label": spoken(panel, p) });
      hit.addEventListener("focus", () => {
        svg.querySelectorAll(".hit").forEach((each) => each.setAttribute("tabindex", each === hit ? 0 : -1)); // one stop for Tab
        activate(p.index);
      });
      hit.addEventListener("blur", () => activate(null));
      hit.addEventListener("click", () => pick(p.index));
      hit.addEventListener("keydown", (event) => {
        const step = { ArrowRight: order + 1, ArrowUp: order + 1, ArrowLeft: order - 1, ArrowDown: order - 1, Home: 0, End: all.length - 1 }[event.key];
        if (event.key === "Escape") activate(null);
        else if (event.key === "Enter" || event.key === " ") pick(p.index);
        else if (step === undefined) return;
        else svg.querySelectorAll(".hit")[Math.min(all.length - 1, Math.max(0, step))].focus();
        event.preventDefault();
      });
      svg.append(hit);
    });
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const [mx, my] = [((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height];
      const near = d3.least(all, (p) => Math.hypot(at(p).px - mx, at(p).py - my));
      activate(Math.hypot(at(near).px - mx, at(near).py - my) < 34 ? near.index : null);
    });
    svg.addEventListener("pointerleave", () => activate(null));
    markPicked();
  }

  const spoken = (panel, p) =>
    `${p.slice.name}${p.slice.role ? `, ${p.slice.role}` : ""}, ${sizeText(p.slice)}, ${shown(panel, p.y)}${panel.percent ? " percent" : ""}` +
    (p.low === null ? "" : `, interval ${shown(panel, p.low)} to ${shown(panel, p.high)}`) + `, ${p.verdict}${p.by === null ? "" : ` by ${slices[p.by].name}`}`;

  // Labels as in figure.py: important slices choose first; a label covers no marker and no label, or is left out.
  function placeLabels({ svg, all, overlay, line, at, yOf }, width, height) {
    const bounds = { left: 46, right: width - 2, top: 2, bottom: height - 44 };
    const priority = (p) => (p.slice.role === "parent" ? 0 : p.slice.role ? 1 : p.pareto ? 2 : 3);
    const markers = [...all.map((p) => [at(p).px, at(p).py]), ...overlay.map((p) => [at(p).px, yOf(p.published)])];
    const thorns = [];
    const walk = ([x0, y0], [x1, y1]) => {
      const steps = Math.ceil(Math.hypot(x1 - x0, y1 - y0) / 4) + 1;
      for (let i = 0; i <= steps; i++) thorns.push([x0 + ((x1 - x0) * i) / steps, y0 + ((y1 - y0) * i) / steps]);
    };
    for (const p of all) if (p.low !== null) walk([at(p).px, yOf(p.low)], [at(p).px, yOf(p.high)]);
    d3.pairs(line, (a, b) => walk([at(a).px, at(a).py], [at(b).px, at(b).py]));
    const taken = [];
    const directions = [[-1, -1], [1, 1], [1, 0], [-1, 0], [0, -1], [0, 1], [1, -1], [-1, 1]];
    const crowded = all.length > 40; // then the dominated ones, known by hover, go without
    for (const p of all.filter((q) => !crowded || q.slice.role || q.verdict !== "dominated").sort((a, b) => priority(a) - priority(b) || b.y - a.y)) {
      const { px, py } = at(p);
      const text = p.slice.name.length > 28 ? `${p.slice.name.slice(0, 27)}…` : p.slice.name;
      const label = svgNode("text", { "text-anchor": "start", class: `label${priority(p) < 2 ? " strong" : ""}`, fill: p.verdict === "published" ? "var(--published)" : priority(p) < 2 ? "var(--ink)" : p.verdict === "dominated" ? "var(--soft)" : "var(--measured)" }, text);
      svg.append(label);
      const { width: w, height: h } = label.getBBox();
      let best = null;
      directions.forEach(([dx, dy], order) => (width < 500 ? [7, 13, 20] : [7, 13, 22, 34, 46]).forEach((ring) => {
        const x0 = px + dx * ring + ((dx - 1) / 2) * w, y0 = py + dy * ring + ((dy - 1) / 2) * h;
        const x1 = x0 + w, y1 = y0 + h;
        if (x0 < bounds.left || x1 > bounds.right || y0 < bounds.top || y1 > bounds.bottom) return;
        if (markers.some(([x, y]) => x > x0 - 6 && x < x1 + 6 && y > y0 - 5 && y < y1 + 5)) return;
        if (taken.some((t) => t.x0 < x1 + 2 && t.x1 > x0 - 2 && t.y0 < y1 && t.y1 > y0)) return;
        const away = ([x, y]) => Math.hypot(Math.max(x0 - x, 0, x - x1), Math.max(y0 - y, 0, y - y1));
        const astray = markers.some(([x, y]) => (x !== px || y !== py) && away([x, y]) < away([px, py]) + 3); // looks like another's
        const cost = thorns.filter(([x, y]) => x > x0 && x < x1 && y > y0 && y < y1).length + ring / 3 + order * 0.1 + 8 * astray;
        if (!best || cost < best.cost) best = { cost, astray, x0, y0, x1, y1 };
      }));
      if (!best) { label.remove(); continue; }
      taken.push(best);
      label.setAttribute("x", best.x0);
      label.setAttribute("y", best.y0 + h * 0.78);
      const nx = Math.min(Math.max(px, best.x0), best.x1), ny = Math.min(Math.max(py, best.y0), best.y1);
      if (best.astray || Math.hypot(nx - px, ny - py) > 15) svg.append(svgNode("line", { class: "leader", x1: nx, y1: ny, x2: px, y2: py }));
    }
  }

  // Published scores of a parent of another size: on axes of their own.
  function drawPublished() {
    document.querySelectorAll(".published-chart").forEach((place, k) => {
      const all = data.apart[k].map(({ name, x, y }) => ({ slice: { name, role: null }, x, y, low: null, pareto: false, verdict: "published" }));
      const width = roomIn(place, 34);
      const height = 300;
      const chart = Plot.plot({
        width, height, marginLeft: 46, marginRight: 22, marginTop: 16, marginBottom: 44,
        style: { background: "transparent", color: "var(--soft)", fontSize: "12px" },
        x: { label: "effective parameters as published (B)", labelAnchor: "center", labelArrow: "none", insetLeft: 24, insetRight: 24, ticks: width < 500 ? 5 : 8 },
        y: { label: "score, %", labelArrow: "none", ticks: 6, inset: 14, nice: true },
        marks: [Plot.gridY({ stroke: "var(--line)", strokeOpacity: 1, ticks: 6 }), Plot.dot(all, { x: "x", y: (p) => 100 * p.y, symbol: "diamond", r: 4.4, stroke: "var(--published)", strokeWidth: 1.4 })],
      });
      place.replaceChildren(chart);
      const yOf = (value) => chart.scale("y").apply(100 * value);
      placeLabels({ svg: chart, all, overlay: [], line: [], at: (p) => ({ px: chart.scale("x").apply(p.x), py: yOf(p.y) }), yOf }, width, height);
    });
  }

  // --- hover and focus ---
  function activate(index) {
    state.active = index;
    document.querySelectorAll("#chart .hit").forEach((hit) => hit.classList.toggle("active", Number(hit.dataset.slice) === index));
    document.querySelectorAll("#table tbody tr").forEach((row) => row.classList.toggle("active", Number(row.dataset.slice) === index));
    const p = index === null || !drawn ? null : drawn.all.find((q) => q.index === index);
    const tip = $("tip");
    tip.hidden = !p;
    if (!p) return;
    const panel = panels[state.task];
    const title = node("p");
    title.append(node("strong", p.slice.name));
    if (p.slice.role) title.append(" ", node("span", p.slice.role, "tag"));
    const verdict = node("p", p.verdict === "dominated" ? `dominated by ${slices[p.by].name}` : p.verdict === "not separable" ? `not separable at n = ${count(panel.n)}` : p.verdict);
    const share = panel.paired ? node("p", `on the Pareto set in ${Math.round(100 * p.membership)} % of the resamples`, "fine") : "";
    const table = node("table");
    panels.forEach((each, k) => {
      const at = each.slices.indexOf(index);
      if (at < 0) return;
      const row = table.insertRow();
      if (k === state.task) row.className = "current";
      row.append(node("td", each.short), node("td", `${shown(each, each.value[at])}${each.percent ? " %" : ""}`), node("td", each.low[at] === null ? "" : `[${shown(each, each.low[at])}, ${shown(each, each.high[at])}]`));
      if (each.published[at] !== null) row.append(node("td", `published ${percent(each.published[at])}`, "pub"));
    });
    const sizes = node("p", `${scaled(p.slice.effective, PARAMS)} effective · ${scaled(p.slice.total, PARAMS)} total · ${scaled((p.slice.total * state.bits) / 8, BYTES)} in ${$("dtype").selectedOptions[0].text}`, "fine");
    tip.replaceChildren(title, sizes, picture(index), table, verdict, share);
    const card = tip.offsetParent.getBoundingClientRect();
    const box = drawn.svg.getBoundingClientRect();
    const ratio = box.width / drawn.svg.viewBox.baseVal.width;
    const { px, py } = drawn.at(p);
    const left = box.left - card.left + px * ratio, top = box.top - card.top + py * ratio;
    const w = tip.offsetWidth, h = tip.offsetHeight;
    const beside = left + 18 + w < card.width ? left + 18 : left - 18 - w;
    tip.style.left = `${Math.max(4, Math.min(beside, card.width - w - 4))}px`;
    tip.style.top = `${beside < 4 ? top + 18 : Math.max(4, Math.min(top - h / 2, card.height - h - 4))}px`;
  }

  function picture(index) {
    const svg = svgNode("svg", { class: "picture", viewBox: data.viewbox, "aria-hidden": "true" });
    svg.append(svgNode("use", { href: `#picture-${index}` }));
    return svg;
  }

  // --- comparison ---
  function pick(index) {
    $("left").value = index;
    compare();
  }
  function markPicked() {
    const picked = Number($("left").value);
    document.querySelectorAll("#chart .hit").forEach((hit) => hit.classList.toggle("picked", Number(hit.dataset.slice) === picked));
  }
  function compare() {
    const [a, b] = [Number($("left").value), Number($("right").value)];
    $("left-picture").replaceChildren(picture(a));
    $("right-picture").replaceChildren(picture(b));
    const body = $("pairs").tBodies[0];
    body.replaceChildren();
    for (const panel of panels) {
      const [i, j] = [panel.slices.indexOf(a), panel.slices.indexOf(b)];
      const row = body.insertRow();
      const name = node("th", panel.short);
      name.scope = "row";
      row.append(name);
      if (i < 0 || j < 0 || i === j) {
        row.append(...["", "", "", "", "", ""].map(() => node("td", "–")));
        continue;
      }
      if (!panel.error) {
        row.append(node("td", signed(panel, panel.value[i] - panel.value[j])), ...["", "", "", "", ""].map(() => node("td", "–")));
        continue;
      }
      const [low, high] = [Math.min(i, j), Math.max(i, j)];
      const k = (low * (2 * panel.slices.length - low - 1)) / 2 + high - low - 1; // row-major upper triangle
      const difference = panel.sign * (panel.value[i] - panel.value[j]);
      const error = panel.error[k];
      const half = panel.critical * error;
      const clear = Math.abs(difference) > half;
      const need = itemsNeeded(difference, error, panel.n, panel.critical);
      const wins = panel.wins && (i < j ? [panel.wins[k], panel.losses[k]] : [panel.losses[k], panel.wins[k]]);
      row.append(
        node("td", signed(panel, difference), clear ? "clear" : ""),
        node("td", `${signed(panel, difference - half)} to ${signed(panel, difference + half)}${clear ? "" : " (not separable)"}`),
        node("td", wins ? `${count(wins[0])} : ${count(wins[1])}` : "–"),
        node("td", wins ? pText(panel.p_holm[k]) : "–"),
        node("td", count(panel.n)),
        node("td", clear ? "enough" : need.items === null ? `none; could show ${signed(panel, need.detectable).slice(1)} points` : count(need.items)),
      );
    }
    markPicked();
  }
  const pText = (p) => (p < 0.0001 ? "< 0.0001" : p > 0.9999 ? "1" : p.toPrecision(2));

  // As frontier.items_needed (Connor 1987), 80 % power.
  function itemsNeeded(difference, error, n, critical) {
    const z = 0.8416212335729143, variance = n * error * error;
    const detectable = (critical + z) * error;
    if (difference === 0) return { items: null, detectable };
    const root = critical * Math.sqrt(variance + difference * difference) + z * Math.sqrt(variance);
    return { items: Math.ceil((root / difference) ** 2), detectable };
  }

  // --- table ---
  function fillVerdicts() {
    const panel = panels[state.task];
    const all = points(panel);
    $("verdict-task").textContent = panel.short;
    $("verdict-size").textContent = state.size === "effective" ? "effective parameters" : "total parameters";
    document.querySelectorAll("#table tbody tr").forEach((row) => {
      const p = all.find((q) => q.index === Number(row.dataset.slice));
      const cell = row.querySelector(".verdict");
      cell.replaceChildren();
      cell.dataset.value = p ? p.verdict : "";
      if (!p) return;
      const icon = svgNode("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" });
      icon.append(svgNode("circle", { r: 5, class: { "on the frontier": "on", "not separable": "unsure", dominated: "out" }[p.verdict] }));
      cell.append(icon, p.verdict);
      if (p.by !== null) cell.append(node("span", `by ${slices[p.by].name}`, "by"));
    });
  }
  document.querySelectorAll("#table thead button").forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const column = head.cellIndex;
      const numeric = button.dataset.numeric === "1";
      const before = head.getAttribute("aria-sort");
      const direction = before === "none" ? (numeric ? "descending" : "ascending") : before === "ascending" ? "descending" : "ascending";
      document.querySelectorAll("#table thead th[aria-sort]").forEach((th) => th.setAttribute("aria-sort", th === head ? direction : "none"));
      const body = $("table").tBodies[0];
      const value = (row) => row.cells[column].dataset.value;
      const sign = direction === "ascending" ? 1 : -1;
      const order = (a, b) => {
        const [u, v] = [value(a), value(b)];
        if (u === "" || v === "") return (u === "") - (v === ""); // empty cells last, either way
        return sign * (numeric ? Number(u) - Number(v) : u.localeCompare(v, "en", { numeric: true }));
      };
      body.append(...[...body.rows].sort(order));
    });
  });
  document.querySelectorAll("#table tbody tr").forEach((row) => {
    row.addEventListener("click", () => pick(Number(row.dataset.slice)));
  });

  // --- controls ---
  const refresh = () => { drawThumbs(); drawChart(); drawPublished(); fillVerdicts(); compare(); };
  document.querySelectorAll("#tasks input").forEach((input) => input.addEventListener("change", () => {
    state.task = Number(input.value);
    drawChart();
    fillVerdicts();
  }));
  $("size").addEventListener("change", () => {
    state.size = $("size").value;
    $("dtype-label").hidden = state.size !== "bytes";
    refresh();
  });
  $("dtype").addEventListener("change", () => { state.bits = Number($("dtype").value); refresh(); });
  for (const id of ["left", "right"]) {
    slices.forEach((slice, index) => $(id).append(new Option(slice.name, index)));
    $(id).addEventListener("change", compare);
  }
  [$("left").value, $("right").value] = data.compare;
  document.querySelectorAll(".copy").forEach((button) => {
    if (!navigator.clipboard) return;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
      button.textContent = "Copied";
    });
  });
  // A browser may bring back what was chosen before a reload.
  const checked = document.querySelector("#tasks input:checked");
  if (checked) state.task = Number(checked.value);
  state.size = $("size").value;
  state.bits = Number($("dtype").value);
  $("dtype-label").hidden = state.size !== "bytes";
  refresh();
  const redraw = () => { drawChart(); drawPublished(); };
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((each) => (each.open = true));
    printing = true;
    redraw();
  });
  window.addEventListener("afterprint", () => { printing = false; redraw(); });
  let width = $("chart").clientWidth;
  new ResizeObserver(() => {
    if ($("chart").clientWidth !== width) { width = $("chart").clientWidth; redraw(); }
  }).observe($("chart"));
})();
