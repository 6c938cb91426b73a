"use strict";
// Everything is in the page already: this sorts, filters and picks, and writes no markup. The one thing that it computes
// are the second paper's scores, which are by their definition normalised over the rows that are shown.
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const all = (query, within = document) => [...within.querySelectorAll(query)];
const made = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });
const methods = new Map(data.methods.map(one => [one.label, one]));
const view = at("view"), need = at("need"), filter = at("filter"), seen = at("seen");

for (const table of all("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    sort(body, column, down);
  }));
}

function sort(body, column, down) {
  const key = row => row.cells[column].dataset.v;
  const compare = (a, b) => {
    const x = key(a), y = key(b);
    if (x === "" || y === "") return (x === "") - (y === "");  // nothing measured: always last
    const numbers = !isNaN(x) && !isNaN(y);
    return (down ? -1 : 1) * (numbers ? x - y : x.localeCompare(y));
  };
  body.append(...[...body.rows].sort(compare));
}

function name(one) {  // of what may be picked
  if (!one.judge) return one.short;
  const judge = data.judges[one.judge];
  return judge.standing ? `${one.short} (${judge.standing})` : one.short;
}

data.views.forEach(one => view.append(Object.assign(made("option", name(one)), { value: one.key })));
data.attacks.forEach(attack => seen.append(Object.assign(made("option", attack), { value: `attack ${attack}` })));
seen.append(Object.assign(made("option", "as released"), { value: "attack as released" }));
if (need) need.value = need.min;

function fill(cell, [text, interval, order]) {
  cell.textContent = text;
  if (interval) cell.append(made("small", interval));
  cell.dataset.v = order;
}

// those that are accurate enough and wanted
function candidates() {
  const least = need ? Number(need.value) : 0, words = filter.value.trim().toLowerCase();
  const open = !need || need.value === need.min;
  return data.methods.filter(one =>
    (open || (one.accuracy && 100 * one.accuracy.value >= least)) &&
    (!words || `${one.label} ${one.about} ${one.words}`.toLowerCase().includes(words)));
}

function tell(left, picked) {
  const key = picked.key, sign = picked.more_is_private ? -1 : 1;
  const seen = left.filter(one => one.strongest[key] && one.strongest[key].value !== null);
  const unknown = seen.filter(one => one.strongest[key].unknown);  // attackers failed: they may give away anything
  const ranked = seen.filter(one => !one.strongest[key].unknown)
    .sort((a, b) => sign * (a.strongest[key].value - b.strongest[key].value));
  const box = at("candidates");
  box.replaceChildren(made("span", `${left.length} of ${data.methods.length} methods are left` +
    (ranked.length ? "; of these the least is given away by" : "")));
  const list = document.createElement("ol");
  for (const one of ranked.slice(0, 3)) {
    const [value, by] = one.strongest[key].cells;
    const item = made("li", `${one.label}: ${value[0]}${picked.unit ? " " + picked.unit : ""} ${value[1]} (${by[0]})`);
    if (need && one.accuracy && need.value !== need.min && 100 * one.accuracy.low < Number(need.value))
      item.append(made("span", " – the interval of its accuracy reaches below what you need"));
    list.append(item);
  }
  if (ranked.length) box.append(list);
  if (unknown.length) box.append(made("p", "not known: " + unknown.map(one => {
    const value = one.strongest[key].cells[0][0];
    const bound = value === "–" ? "" : `${value}${picked.unit ? " " + picked.unit : ""}; `;
    return `${one.label} (${bound}${one.strongest[key].unknown})`;
  }).join("; ")));
}

// low … high over the rows shown, as lightning_app.metrics.scores.normalised
function stretched(values) {  // null, a hole of the table, stays null
  const known = values.filter(value => value !== null), least = Math.min(...known), most = Math.max(...known);
  return values.map(value => value === null ? null : most === least ? 1 : 0.5 + 0.5 * (value - least) / (most - least));
}

function score(wanted) {
  const table = at("scores");
  if (!table) return;
  const rows = [...table.tBodies[0].rows];
  rows.forEach(row => { row.hidden = !wanted.has(row.dataset.method); });
  const left = rows.filter(row => !row.hidden), raw = left.map(row => data.indicators[row.dataset.method]);
  const privacy = stretched(raw.map(one => one.privacy)), accuracy = stretched(raw.map(one => one.accuracy));
  const first = table.tHead.rows[0].cells.length - 4;
  left.forEach((row, n) => {
    const [p, a] = [privacy[n], accuracy[n]];
    const made = p === null ? [null, a, null, null] : [p, a, p * a, (p + a) / 2];
    made.forEach((value, k) => fill(row.cells[first + k], value === null ? ["–", "", ""] : [value.toFixed(3), "", value]));
  });
  resort(table, first);
}

function resort(table, first) {  // where a column from `first` on is sorted by, its figures have changed
  const heads = [...table.tHead.rows[0].cells], sorted = heads.findIndex(head => head.hasAttribute("aria-sort"));
  if (sorted >= first) sort(table.tBodies[0], sorted, heads[sorted].getAttribute("aria-sort") === "descending");
}

function show() {
  const picked = data.views.find(one => one.key === view.value) || data.views[0];
  const left = candidates(), wanted = new Set(left.map(one => one.label));
  if (need) {
    const least = Number(need.value);
    at("needed").textContent = least.toFixed(1);
    for (const svg of all(".plot svg")) {
      const frame = svg.querySelector(".frame"), line = svg.querySelector(".need");
      const top = Number(frame.getAttribute("y")), high = Number(frame.getAttribute("height"));
      const share = (least - svg.dataset.low) / (svg.dataset.high - svg.dataset.low);
      const y = top + high * (1 - Math.min(1, Math.max(0, share)));
      line.setAttribute("y1", y);
      line.setAttribute("y2", y);
    }
  }
  all(".plot").forEach(plot => { plot.hidden = plot.dataset.view !== picked.key; });
  all(".point").forEach(point => point.classList.toggle("out", !wanted.has(point.dataset.method ?? point.dataset.name)));
  const table = at("methods"), last = table.tHead.rows[0].cells.length - 2;
  table.tHead.rows[0].cells[last].querySelector("button").textContent = picked.label;
  for (const row of table.tBodies[0].rows) {
    const one = methods.get(row.dataset.method), found = one && one.strongest[picked.key];
    const cells = found ? found.cells : [["–", "", ""], ["–", "", ""]];
    cells.forEach((cell, number) => fill(row.cells[last + number], cell));
    row.hidden = !wanted.has(row.dataset.method);
  }
  resort(table, last);
  score(wanted);
  const states = at("states");
  const off = [...states.tHead.rows[0].cells].map(head => Boolean(picked.judge && head.dataset.judge && head.dataset.judge !== picked.judge));
  [...states.tHead.rows[0].cells].forEach((cell, column) => { cell.hidden = off[column]; });
  for (const row of states.tBodies[0].rows) {
    const found = methods.get(row.dataset.method)?.strongest[picked.key];
    const shown = !seen.value || (seen.value === "strongest" ? found && row.dataset.seen === found.attack
      : seen.value === `attack ${row.dataset.seen}`);
    row.hidden = !shown || !wanted.has(row.dataset.method);
    [...row.cells].forEach((cell, column) => { cell.hidden = off[column]; });
  }
  all("section[data-method]").forEach(one => { one.hidden = !wanted.has(one.dataset.method); });
  all("details[data-example]").forEach(one => {
    one.hidden = methods.has(one.dataset.example) && !wanted.has(one.dataset.example);
  });
  tell(left, picked);
}

function save(kind, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind === "csv" ? "text/csv" : "application/json" }));
  link.download = `report.${kind}`;
  link.click();
}

at("csv").addEventListener("click", () => save("csv", data.csv));
at("json").addEventListener("click", () => save("json", JSON.stringify({ ...data, csv: undefined }, null, 1)));
for (const control of [view, need, filter, seen]) control?.addEventListener("input", show);
at("controls").addEventListener("submit", event => event.preventDefault());
at("controls").hidden = false;
show();
