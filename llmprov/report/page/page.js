// The page's script. Whatever came from a host becomes a text node, or passes `escaped`; nothing here makes markup of it.
const STATUS_CLASS = (name) => name.replaceAll(" ", "_");
const ABSENT = "\u0000";
const MOST_POINTS = 2000;
const CHUNK = Number(document.getElementById("page").dataset.chunk);
const byId = (id) => document.getElementById(id);

const escaped = (text) =>
  String(text).replace(/[&<>"'`]/g, (character) => `&#${character.charCodeAt(0)};`);

/** An element with attributes and children; children that are no elements become text. */
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** Text that the page carries deflated, in base64. */
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

// -- colours --------------------------------------------------------------------------------------------------------

const redrawn = [];
function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  document.documentElement.classList.toggle("dark", dark);
  byId("theme").setAttribute("aria-pressed", String(dark));
  redrawn.forEach((draw) => draw());
}
setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => setTheme(event.matches));
byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));

// -- the table ------------------------------------------------------------------------------------------------------

const HEADLINE = "train.tokens_per_s";
const all = JSON.parse(await unpacked("data-table"));
const count = all.host.length;
const place = new Map(all.host.map((name, index) => [name, index]));

function ofCohort(key, index) {
  const middle = all.cohort[index] >= 0 ? all.medians[all.cohort[index]][key] : undefined;
  const value = all.figures[key]?.[index];
  return middle && value !== null && value !== undefined ? value / middle : null;
}
const figure = (value) =>
  value === null || value === undefined ? "" : value >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
const percent = (part) => (part === null ? "" : `${(100 * part).toFixed(1)} %`);

const rows = Array.from({ length: count }, (_, index) => index);
/** A column whose cells show one thing and sort by another. */
function column(show, order, name = "") {
  return {
    data: null,
    className: name,
    render: (index, kind) => (kind === "sort" || kind === "type" ? order(index) : kind === "filter" ? "" : show(index)),
  };
}
const word = (values) => column((index) => escaped(values[index]), (index) => values[index]);
const amount = (values, show) => column((index) => show(values(index)), (index) => values(index) ?? -1, "number");

/** What a cohort is made of, without the versions. */
const kind = (cohort) => cohort.split(" · ")[0];

const selects = { status: byId("by-status"), step: byId("by-step"), cohort: byId("by-cohort"), group: byId("by-group") };
function options(select, entries) {
  for (const [value, text] of entries) select.append(el("option", { value }, text));
}
options(selects.status, [...new Set(all.status)].sort((a, b) => a - b).map((n) => [all.statuses[n], all.statuses[n]]));
options(selects.step, [...new Set(all.step)].filter((n) => n > 0).map((n) => [all.steps[n], all.steps[n]]));
options(selects.cohort, all.cohorts.map((text, n) => [String(n), text]));
options(selects.group, [...new Set(all.groups.flat())].sort().map((text) => [text, text]));

const searched = rows.map((i) =>
  [all.host[i], all.statuses[all.status[i]], all.what[i], all.cohorts[all.cohort[i]] ?? "", all.torch[i], all.groups[i].join(" ")].join("\n").toLowerCase(),
);
let wanted = { words: [], status: "", step: "", cohort: "", group: "" };
function shown(index) {
  return (
    (!wanted.status || all.statuses[all.status[index]] === wanted.status) &&
    (!wanted.step || all.steps[all.step[index]] === wanted.step) &&
    (!wanted.cohort || String(all.cohort[index]) === wanted.cohort) &&
    (!wanted.group || all.groups[index].includes(wanted.group)) &&
    wanted.words.every((part) => searched[index].includes(part))
  );
}

async function libraryFromText(id) {
  const url = URL.createObjectURL(new Blob([await unpacked(id)], { type: "text/javascript" }));
  try {
    return await import(url);
  } finally {
    URL.revokeObjectURL(url);
  }
}

const DataTable = (await libraryFromText("library-table")).default;
const table = new DataTable("#table", {
  data: rows,
  order: [],
  pageLength: 50,
  lengthMenu: [25, 50, 100, 500],
  layout: { topStart: null, topEnd: null, bottomStart: "info", bottomEnd: ["pageLength", "paging"] },
  autoWidth: false,
  searching: true,
  language: { emptyTable: "The inventory has no hosts.", zeroRecords: "No host is like that." },
  columns: [
    column((i) => `<button type="button" class="host" data-host="${escaped(all.host[i])}">${escaped(all.host[i])}</button>`, (i) => all.host[i]),
    column((i) => `<span class="status ${STATUS_CLASS(all.statuses[all.status[i]])}">${all.statuses[all.status[i]]}</span>`, (i) => all.status[i]),
    { ...word(all.what), className: "what" },
    column((i) => (all.step[i] ? all.steps[all.step[i]] : ""), (i) => -all.step[i]),
    amount((i) => all.figures[HEADLINE]?.[i] ?? null, figure),
    amount((i) => ofCohort(HEADLINE, i), percent),
    column((i) => escaped(kind(all.cohorts[all.cohort[i]] ?? "")), (i) => all.cohort[i]),
    word(all.torch),
    word(all.since),
  ],
});
table.search.fixed("page", (_, index) => shown(index));

function filter() {
  wanted = {
    words: byId("search").value.toLowerCase().split(/\s+/).filter(Boolean),
    status: selects.status.value,
    step: selects.step.value,
    cohort: selects.cohort.value,
    group: selects.group.value,
  };
  table.draw();
}
byId("filters").addEventListener("input", filter);
byId("filters").addEventListener("reset", () => setTimeout(filter));
byId("filters").addEventListener("submit", (event) => event.preventDefault());
for (const tile of document.querySelectorAll(".tile")) {
  tile.addEventListener("click", () => {
    selects.status.value = tile.dataset.status;
    filter();
    byId("hosts").scrollIntoView();
  });
}
// On paper there are no pages to turn: all hosts up to a thousand, else those that are shown.
let length = 50;
addEventListener("beforeprint", () => {
  length = table.page.len();
  if (count <= 1000) table.page.len(-1).draw();
});
addEventListener("afterprint", () => table.page.len(length).draw());

// -- one host -------------------------------------------------------------------------------------------------------

const chunks = new Map();
function chunkOf(index) {
  const number = Math.floor(index / CHUNK);
  if (!chunks.has(number)) chunks.set(number, unpacked(`chunk-${number}`).then(JSON.parse));
  return chunks.get(number);
}

const text = (value) => (value === null || value === undefined ? "" : typeof value === "number" ? figure(value) : String(value));
function section(title, ...children) {
  const there = children.flat().filter((child) => child !== null);
  return there.length ? [el("h3", {}, title), ...there] : [];
}
function tableOf(heads, lines) {
  if (!lines.length) return [];
  const head = el("thead", {}, el("tr", {}, heads.map((name) => el("th", { scope: "col" }, name))));
  const cells = lines.map(([first, ...rest]) => el("tr", {}, el("th", { scope: "row" }, first), rest.map((cell) => el("td", {}, cell))));
  return [el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": heads[0] }, el("table", { class: "figures" }, head, el("tbody", {}, cells)))];
}
function pairs(entries) {
  return entries.length ? [el("dl", { class: "pairs" }, entries.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, text(value))]))] : [];
}
function finding([id, status, measured, expected, unit, summary, evidence, remedy]) {
  const values = [["measured", measured], ["expected", expected]].filter(([, value]) => value !== null && value !== "");
  return el(
    "div",
    { class: `finding ${status}` },
    el("p", {}, el("span", { class: `status ${status}` }, status), " ", el("strong", {}, summary || id), " ", el("code", { class: "quiet" }, id)),
    values.length ? el("p", { class: "quiet" }, values.map(([name, value]) => `${name} ${text(value)} ${unit}`).join(" · ")) : null,
    evidence ? el("pre", {}, evidence) : null,
    remedy ? el("p", {}, `Next: ${remedy}`) : null,
  );
}
function causePart(cause) {
  if (!cause) return [];
  const [says, step, what, command, drain] = cause;
  return section(
    "Cause and next step",
    el("p", {}, el("strong", {}, says)),
    drain ? el("p", {}, el("span", { class: "step" }, "drain"), " take work off the host first; with Slurm", el("pre", {}, drain)) : null,
    el("p", {}, el("span", { class: "step" }, step), ` ${what}`),
    command ? el("pre", {}, command) : null,
  );
}
function figureLines(chunk, at) {
  const devices = [];
  const byKey = new Map();
  for (const [name, values] of Object.entries(chunk.figures)) {
    if (values[at] === ABSENT) continue;
    const [key, device] = name.split("@");
    if (!devices.includes(device)) devices.push(device);
    if (!byKey.has(key)) byKey.set(key, {});
    byKey.get(key)[device] = [values[at], chunk.units[name]];
  }
  const heads = ["measurement", "unit", ...devices.map((device) => device || "host")];
  return [heads, [...byKey].map(([key, of]) => [key, Object.values(of)[0][1], ...devices.map((device) => text(of[device]?.[0]))])];
}

async function open(name) {
  const index = place.get(name);
  if (index === undefined) return;
  const chunk = await chunkOf(index);
  const at = index % CHUNK;
  const status = all.statuses[all.status[index]];
  const close = el("button", { type: "button", autofocus: "" }, "Close");
  close.addEventListener("click", () => byId("panel").close());
  const facts = Object.entries(chunk.facts).filter(([, values]) => values[at] !== ABSENT).map(([fact, values]) => [fact, values[at]]);
  const passed = Object.entries(chunk.passed).filter(([, values]) => values[at] !== ABSENT)
    .map(([id, values]) => [id, text(values[at]), text(chunk.expected[id][at]), chunk.passed_units[id]]);
  byId("panel-body").replaceChildren(
    el("div", { class: "top" }, el("div", {}, el("h2", { id: "panel-title" }, name), el("span", { class: `status ${STATUS_CLASS(status)}` }, status), all.since[index] ? ` since ${all.since[index]}` : ""), close),
    el("p", {}, all.what[index]),
    ...causePart(chunk.cause[at]),
    ...section("Findings", ...chunk.found[at].map(finding)),
    ...section("Failed tasks", ...chunk.failures[at].map(([stage, task, message]) => el("div", {}, el("p", {}, `${stage}: ${task}`), el("pre", {}, message)))),
    ...section("Drift from the declaration", ...chunk.drift[at].map((line) => el("pre", {}, line))),
    ...section("Changed in this run", ...(chunk.done[at].length ? [el("ul", {}, chunk.done[at].map((task) => el("li", {}, task)))] : [])),
    ...section("Measurements", ...tableOf(...figureLines(chunk, at))),
    ...section("Versions", ...pairs(facts)),
    ...section("Devices", ...tableOf(["device", "name", "PCI address", "serial", "UUID"], chunk.devices[at])),
    ...section("Checks that passed", ...tableOf(["check", "measured", "expected", "unit"], passed)),
    ...section("Not reported: neither healthy nor ill", ...(chunk.silent[at].length ? [el("ul", {}, chunk.silent[at].map((line) => el("li", {}, line)))] : [])),
  );
  byId("panel").showModal();
  byId("panel").scrollTop = 0;
  history.replaceState(null, "", `#host=${encodeURIComponent(name)}`);
}
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button.host");
  if (button) open(button.dataset.host);
  if (event.target === byId("panel")) byId("panel").close();
});
byId("panel").addEventListener("close", () => history.replaceState(null, "", " "));
if (location.hash.startsWith("#host=")) {
  try {
    open(decodeURIComponent(location.hash.slice(6)));
  } catch {
    // A link with a broken name opens the page without a panel.
  }
}

// -- charts ---------------------------------------------------------------------------------------------------------

let Plotly = null;

async function draw() {
  if (!Plotly) return;
  const key = byId("figure").value;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const layout = (x, y) => ({
    paper_bgcolor: colour("--back"), plot_bgcolor: colour("--back"), font: { color: colour("--fore") },
    margin: { l: 60, r: 20, t: 20, b: 50 }, showlegend: false, hovermode: "closest", height: 360,
    xaxis: { title: { text: x }, gridcolor: colour("--line"), zeroline: false },
    yaxis: { title: { text: y }, gridcolor: colour("--line"), zeroline: false, automargin: true },
  });
  const config = { displayModeBar: false, responsive: true };
  const inCohort = all.cohorts.map((_, number) => rows.filter((i) => all.cohort[i] === number && ofCohort(key, i) !== null));
  const labels = all.cohorts.map((_, number) => `cohort ${number + 1} (${inCohort[number].length})`);
  // Each with its part of what it was held against: [host, part, device, or nothing where it is the whole host], the worst first.
  const named = (all.slow[key] ?? []).filter(([i]) => ofCohort(key, i) !== null);
  const outlying = new Set(named.map(([i]) => i));
  const title = ([i, , device]) => escaped(all.host[i]) + (device ? ` ${escaped(device)}` : "");
  // The worst of each cohort is named, the others when pointed at: more names would lie on each other.
  const met = new Set();
  const worst = named.map((one) => { const had = met.has(all.cohort[one[0]]); met.add(all.cohort[one[0]]); return had ? "" : title(one); });
  const marks = (x, y) => ({
    type: "scatter", mode: "markers+text", x: named.map(x), y: named.map(y), text: worst, cliponaxis: false,
    // Towards the middle, where there is room for a name.
    textposition: named.map((one) => (x(one) > 90 ? "top left" : "top right")),
    marker: { color: colour("--bad"), size: 8, symbol: named.map(([, , device]) => (device ? "diamond" : "circle")) },
    hovertext: named.map((one) => `${title(one)}: ${(100 * one[1]).toFixed(1)} %`), hoverinfo: "text",
  });
  const boxes = inCohort.map((members, number) => ({
    type: "box", orientation: "h", x: members.map((i) => 100 * ofCohort(key, i)), name: labels[number], boxpoints: false,
    marker: { color: colour("--link") }, hoverinfo: "skip",
  })).filter((box) => box.x.length).reverse();
  const over = marks(([, part]) => 100 * part, ([i]) => labels[all.cohort[i]]);
  await Plotly.react("spread", [...boxes, over], layout(`${all.names[key]}, % of the cohort's median`, ""), config);
  byId("spread-text").textContent = `Box: half of the hosts, with their median; whiskers: all others. Red: what stands out, ${named.length} in all: hosts as circles; single devices, against the others of their host, as diamonds. The table names them all. ` +
    all.cohorts.slice(0, 12).map((name, number) => `Cohort ${number + 1}: ${name}.`).join(" ");

  const against = key === "memory.bandwidth_gb_s" ? HEADLINE : "memory.bandwidth_gb_s";
  const both = rows.filter((i) => ofCohort(key, i) !== null && ofCohort(against, i) !== null);
  const sound = both.filter((i) => !outlying.has(i));
  const step = Math.max(1, Math.ceil(sound.length / MOST_POINTS));
  const some = sound.filter((_, n) => n % step === 0);
  const points = {
    type: "scatter", mode: "markers", x: some.map((i) => 100 * ofCohort(against, i)), y: some.map((i) => 100 * ofCohort(key, i)),
    hovertext: some.map((i) => escaped(all.host[i])), hoverinfo: "text", marker: { size: 5, opacity: 0.6, color: some.map((i) => all.cohort[i]), colorscale: "Viridis" },
  };
  const out = marks(([i]) => 100 * (ofCohort(against, i) ?? 1), ([, part]) => 100 * part);
  await Plotly.react("scatter", [points, out], layout(`${all.names[against] ?? against}, % of the cohort's median`, `${all.names[key]}, %`), config);
  byId("scatter-text").textContent = `A point a host: ${some.length} of the ${sound.length} that do not stand out, and in red all that do.`;
}

const keys = Object.keys(all.figures);
if (byId("charts") && keys.length) {
  options(byId("figure"), keys.map((key) => [key, `${all.names[key]}, ${all.units[key]}`]));
  byId("figure").addEventListener("change", draw);
  redrawn.push(draw);
  const watch = new IntersectionObserver(async (seen) => {
    if (Plotly || !seen.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    const script = el("script", { nonce: byId("page").nonce }, await unpacked("library-charts"));
    document.head.append(script);
    Plotly = window.Plotly;
    await draw();
    document.documentElement.dataset.charts = "drawn";
  }, { rootMargin: "300px" });
  watch.observe(byId("charts"));
} else {
  byId("charts")?.remove();
}
document.documentElement.dataset.ready = "yes";
