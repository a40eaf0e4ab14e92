// The live page of a mount. Texts come escaped, and become text nodes only: nothing is ever parsed as
// markup. Files are asked for by ids, which are plain ASCII whatever their names hold.

globalThis.trustedTypes?.createPolicy("default", {
  createHTML: (text) => (text === "" ? "" : null),
});

const KEY = document.querySelector("meta[name=page-key]").content;
let tiers = [];
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const COUNT_MAX = 10000;
const WATCH_MS = 1000;
const LOG_MS = 10000;
const REPORT_MS = 30000;

/* global echarts, memfsCharts: of the scripts that are loaded before */

const find = (id) => document.getElementById(id);

// --- texts --------------------------------------------------------------------------------------
function size(bytes) {
  let unit = 0;
  let value = bytes;
  while (Math.abs(value) >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

function rate(bytes, signed = false) {
  if (Math.abs(bytes) < 1) return "-";
  const sign = signed ? (bytes > 0 ? "+" : "−") : "";
  return `${sign}${size(Math.abs(bytes))}/s`;
}

function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d`;
}

const atMost = (count) => (count >= COUNT_MAX ? `${COUNT_MAX}+` : `${count}`);
const percent = (share) => `${Math.round(share * 100)} %`;

// --- elements -----------------------------------------------------------------------------------
function element(tag, fields = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name === "class") made.className = value;
    else if (name === "onclick") made.addEventListener("click", value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// Commands in sentences are between backticks.
const written = (text) =>
  text.split("`").map((part, at) => (at % 2 ? element("code", {}, part) : part));

const cell = (text) => element("td", {}, `${text}`);
const number = (text) => element("td", { class: "number" }, `${text}`);
const word = (text) => element("td", { class: "word" }, `${text}`);
const head = (...children) => element("th", { scope: "row" }, ...children);
const wordHead = (text) => element("th", { scope: "row", class: "word" }, text);

function bar(share, kind = "") {
  const fill = element("span", { class: `fill ${kind}` });
  fill.style.width = `${Math.min(100, Math.max(0, share * 100))}%`;
  const track = element("span", { class: "track", "aria-hidden": "true" }, fill);
  return element("td", { class: "bar" }, track, element("span", { class: "share" }, percent(share)));
}

function fill(table, rows, nothing) {
  const body = find(table).tBodies[0];
  const columns = find(table).tHead.rows[0].cells.length;
  const heads = [...find(table).tHead.rows[0].cells];
  // Columns that a narrow window has no room for.
  for (const cells of rows) {
    cells.forEach((each, at) => each.classList.toggle("minor", heads[at].classList.contains("minor")));
  }
  const empty = [element("td", { class: "nothing", colspan: columns }, nothing)];
  const made = element("tbody", {}, ...(rows.length ? rows : [empty]).map((cells) => element("tr", {}, ...cells)));
  // What is the same stays, with what is selected in it and the keyboard on it. Buttons differ by the
  // files that they are of, which have their ids there.
  if (made.innerHTML !== body.innerHTML) body.replaceChildren(...made.children);
}

function directory(id, text) {
  return element("button", { type: "button", class: "link", "data-id": id, onclick: () => enter(id) }, text);
}

// --- the live part ------------------------------------------------------------------------------
function showState(text, isUp) {
  const state = find("state");
  if (state.textContent !== text) state.textContent = text;
  state.className = isUp ? "up" : "down";
  document.body.classList.toggle("stale", !isUp);
}

function notes(status) {
  const found = [];
  // What the sentences above tell already is not told again.
  const told = find("sentences").textContent;
  if (status.store && status.store.well === false && !told.includes(status.store.reason)) {
    found.push(`The store has failed for ${duration(status.store.lasts_s)}: ${status.store.reason}`);
  }
  for (const tier of status.tiers) {
    if (tier.note && !told.includes(tier.note)) found.push(`${tier.tier}: ${tier.note}`);
  }
  if (status.prefetch.stalled) found.push(`prefetch waits: ${status.prefetch.stalled}`);
  if (status.policy.note) found.push(status.policy.note);
  for (const quota of status.quotas) {
    if (quota.used + quota.reserved >= quota.limit) {
      found.push(`quota ${quota.quota} is spent; more in ${duration(quota.frees_s)}`);
    }
  }
  if (status.export && status.export.error && !told.includes(status.export.error)) {
    found.push(`export: ${status.export.error}`);
  }
  return found;
}

function show(entry) {
  if (entry.problem !== null) {
    showState(`no answer: ${entry.problem}`, false);
    return;
  }
  const status = entry.status;
  const wasDown = find("state").className !== "up";
  showState("live", true);
  find("mountpoint").textContent = status.mountpoint;
  document.title = `memfs ${status.mountpoint}`;
  const way = status.driver.passthrough ? "passthrough" : "without passthrough";
  find("facts").textContent =
    `${status.inode_count} inodes, ${size(status.logical_bytes)}; up ${duration(status.uptime_s)}; ` +
    `${status.driver.name}, ${way}; ${Math.round(entry.requests_per_s)} requests a second; ` +
    `${atMost(status.work.unsealed_count)} open for writing`;
  showTiers(status);
  showFlows(entry);
  showPending(entry);
  showPrograms(entry.programs);
  if (wasDown) {
    loadSnapshots();
    loadLog();
    loadReport();
    load();
  }
}

function showTiers(status) {
  tiers = status.tiers.map((tier) => tier.tier);
  const rows = status.tiers.map((tier) => [
    wordHead(tier.tier),
    tier.capacity_bytes
      ? bar(tier.used_bytes / tier.capacity_bytes, tier.tier)
      : element("td", { class: "nothing" }, "without limit"),
    number(size(tier.used_bytes)),
    number(tier.capacity_bytes ? size(tier.capacity_bytes) : "-"),
    number(atMost(tier.file_count)),
    number(rate(tier.bytes_per_s, true)),
  ]);
  fill("tiers", rows, "no tiers");
  const made = notes(status).map((note) => element("li", {}, note));
  const shown = [...find("notes").children].map((item) => item.textContent).join("\n");
  if (shown !== made.map((item) => item.textContent).join("\n")) find("notes").replaceChildren(...made);
}

function showFlows(entry) {
  const sum = Math.max(1, entry.flows.reduce((bytes, flow) => bytes + flow.bytes, 0));
  fill(
    "flows",
    entry.flows.map((flow) => [
      wordHead(flow.source),
      word(flow.target),
      bar(flow.bytes / sum, flow.target),
      number(size(flow.bytes)),
      number(rate(flow.bytes_per_s)),
    ]),
    "nothing was copied yet",
  );
  fill(
    "moves",
    entry.moves.map((move) => [
      head(move.wanted === null ? move.kind : `${move.kind} to ${move.wanted}`),
      bar(move.total_bytes ? move.done_bytes / move.total_bytes : 0),
      number(size(move.total_bytes)),
      number(rate(move.bytes_per_s)),
      cell(move.path === null ? "several files" : move.path),
    ]),
    "no move is under way",
  );
}

function showPending(entry) {
  fill(
    "pending",
    entry.pending.slice(0, 50).map((move) => [
      head(move.reason),
      word(move.wanted),
      word(move.retry_s ? `in ${duration(move.retry_s)}` : "due"),
      cell(move.path),
    ]),
    "nothing waits",
  );
  find("pending-title").textContent = `Waiting: ${atMost(entry.status.work.pending_count)}`;
}

function showPrograms(programs) {
  fill(
    "programs",
    programs.slice(0, 20).map((program) => [
      head(program.name),
      number(program.uid),
      number(program.pid || "?"),
      number(size(program.opened_bytes)),
      number(rate(program.opened_bytes_per_s)),
      number(program.open_count),
      number(duration(program.idle_s)),
    ]),
    "no program has opened a file yet",
  );
}

function listen() {
  const source = new EventSource("events");
  source.onmessage = (event) => show(JSON.parse(event.data));
  source.onerror = () => {
    const closed = source.readyState === EventSource.CLOSED;
    showState(
      closed
        ? "the server takes no more: open the address that `memfs web` has printed"
        : "the server of this page does not answer; trying again",
      false,
    );
  };
}

// --- asking -------------------------------------------------------------------------------------
async function ask(path, parameters = {}, options = {}) {
  const query = new URLSearchParams(parameters).toString();
  const answer = await fetch(query ? `${path}?${query}` : path, options);
  const body = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (!answer.ok) throw new Error(body.error || `status ${answer.status}`);
  return body;
}

const change = (path, body) =>
  ask(path, {}, {
    method: "POST",
    headers: { "content-type": "application/json", "x-memfs-page": KEY },
    body: JSON.stringify(body),
  });

// --- files --------------------------------------------------------------------------------------
const place = { path: "", found: null, token: null };
let turn = 0;

function used(nanoseconds) {
  if (!nanoseconds) return "-";
  return `${duration(Date.now() / 1000 - nanoseconds / 1e9)} ago`;
}

const heat = (uses) => (uses >= 0.05 ? uses.toFixed(1) : "-");

async function load() {
  if (place.found !== null) return;
  const mine = ++turn;
  find("listed").textContent = "looking";
  try {
    const report = await ask("tree", { path: place.path, order: find("order").value });
    if (mine === turn) showTree(report);
  } catch (error) {
    if (mine === turn) find("listed").textContent = `cannot be listed: ${error.message}`;
  }
}

function showTree(report) {
  const steps = [{ name: "root", id: "" }, ...report.above];
  find("above").replaceChildren(
    ...steps.map((step, at) => {
      const isLast = at === steps.length - 1;
      const link = directory(step.id, step.name);
      if (isLast) link.setAttribute("aria-current", "location");
      return element("li", {}, link);
    }),
  );
  const isByHeat = find("order").value === "heat";
  const uses = report.entries.reduce((sum, entry) => sum + entry.uses, 0);
  const whole = Math.max(1e-9, isByHeat ? uses : report.size);
  fill(
    "tree",
    report.entries.map((entry) => [
      head(
        entry.kind === "directory"
          ? directory(entry.id, `${entry.name}/`)
          : entry.name,
      ),
      bar((isByHeat ? entry.uses : entry.size) / whole),
      number(report.is_summed || entry.kind !== "directory" ? size(entry.size) : "?"),
      number(report.is_summed || entry.kind !== "directory" ? size(entry.local_bytes) : "?"),
      number(report.is_summed || entry.kind !== "directory" ? entry.file_count : "?"),
      number(heat(entry.uses)),
      word(used(entry.accessed_ns)),
      whyCell(entry.id, entry.name, entry.kind),
    ]),
    "the directory is empty",
  );
  const rest = report.name_count - report.entries.length;
  find("listed").textContent =
    `${report.name_count} names, ${report.file_count} files, ${size(report.size)}, ` +
    `${size(report.local_bytes)} of it on the disk` +
    (rest > 0 ? `; ${rest} names are not shown` : "") +
    (report.is_summed ? "" : "; directories are too large to be summed up in time");
  find("more").hidden = true;
}

function whyCell(id, name, kind) {
  if (kind === "other") return cell("");
  const label = `Why is ${name} where it is?`;
  return element(
    "td",
    { class: "number" },
    element(
      "button",
      { type: "button", "aria-label": label, "data-id": id, onclick: () => openWhy(id) },
      "Why?",
    ),
  );
}

function enter(path) {
  place.path = path;
  leaveSearch();
  load().then(() => find("above").querySelector("[aria-current]")?.focus());
}

function leaveSearch() {
  place.found = null;
  place.token = null;
  find("clear").hidden = true;
}

async function search(next) {
  const mine = ++turn;
  const parameters = { filter: find("filter").value, at: find("at").value };
  if (next && place.token) parameters.token = place.token;
  find("listed").textContent = "searching";
  try {
    const report = await ask("search", parameters);
    if (mine !== turn) return;
    place.found = next ? [...place.found, ...report.files] : report.files;
    place.token = report.token;
    find("clear").hidden = false;
    showFound(report);
  } catch (error) {
    if (mine === turn) find("listed").textContent = `cannot be searched: ${error.message}`;
  }
}

function showFound(report) {
  const found = place.found;
  const most = Math.max(1, ...found.map((file) => file.size));
  fill(
    "tree",
    found.map((file) => [
      head(file.path),
      bar(file.size / most),
      number(size(file.size)),
      number("-"),
      number(1),
      number("-"),
      cell("-"),
      whyCell(file.id, file.path, "file"),
    ]),
    "no file is found",
  );
  const more = place.token === null ? "" : ", and there are more";
  find("listed").textContent =
    `${found.length} found${more}` +
    (report.notes.length ? `; ${report.notes.join("; ")}` : "");
  find("more").hidden = place.token === null;
}

// --- why, pin and unpin -------------------------------------------------------------------------
let watched = null;
let opener = null;

async function openWhy(id) {
  opener = document.activeElement;
  watched = id;
  find("change").textContent = "";
  await look(id);
  if (watched === id) find("why").focus();
}

async function look(id) {
  try {
    const told = await ask("why", { path: id });
    if (watched === id) showWhy(told);
  } catch (error) {
    if (watched !== id) return;
    find("why").hidden = false;
    tell(error.message, true);
  }
}

function tell(text, isBad) {
  find("change").textContent = text;
  find("change").className = isBad ? "bad" : "";
}

function showWhy(told) {
  find("why").hidden = false;
  find("why-title").textContent = told.path;
  const why = told.why;
  // A directory has no place, and only a pin that all below it inherit.
  const facts = told.is_directory
    ? [["pin", told.pin]]
    : [["tier", told.tier], ["pin", told.pin], ["state", told.state], ["rule", why.rule || "-"]];
  if (why.pending) facts.push(["waits", `${why.pending.wanted}: ${why.pending.reason}`]);
  if (why.outlook) facts.push(["outlook", why.outlook]);
  if (why.hot) facts.push(["not hot", why.hot]);
  if (why.hot_tier) facts.push(["hot tier", `does not serve at present: ${why.hot_tier}`]);
  if (why.room) facts.push(["room", why.room]);
  if (why.store && why.store.reason) facts.push(["store", why.store.reason]);
  find("placement").replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, `${value}`)]),
  );
  find("decision").textContent = why.detail || "";
  // The past is as it was: nothing of it can be pinned.
  find("pins").hidden = "snapshot" in why;
  const buttons = tiers.map((tier) =>
    element(
      "button",
      { type: "button", "aria-pressed": told.pin === tier ? "true" : "false", onclick: () => pin(told.id, tier) },
      `Pin ${tier}`,
    ),
  );
  buttons.push(element("button", { type: "button", onclick: () => unpin(told.id) }, "Unpin"));
  const kept = [...find("pins").children];
  const same = kept.length === buttons.length && find("pins").dataset.id === told.id;
  if (same) {
    // Kept, so that the keyboard stays where it is.
    kept.forEach((button, at) => {
      const pressed = buttons[at].getAttribute("aria-pressed");
      if (pressed !== null) button.setAttribute("aria-pressed", pressed);
    });
    return;
  }
  find("pins").dataset.id = told.id;
  find("pins").replaceChildren(...buttons);
}

async function act(path, body, text) {
  try {
    showWhy(await change(path, body));
    tell(text, false);
  } catch (error) {
    tell(error.message, true);
  }
}

const pin = (id, tier) =>
  act("pin", { path: id, tier }, `pinned to ${tier}; the move goes on in the background`);
const unpin = (id) => act("unpin", { path: id }, "unpinned; memfs chooses the tier");

function closeWhy() {
  watched = null;
  find("why").hidden = true;
  if (opener && opener.isConnected) opener.focus();
}

// --- snapshots ----------------------------------------------------------------------------------
async function loadSnapshots() {
  let snapshots = [];
  try {
    snapshots = (await ask("snapshots")).snapshots;
  } catch (error) {
    fill("snapshots", [], error.message);
    return;
  }
  fill(
    "snapshots",
    snapshots.map((snapshot) => [
      head(snapshot.name),
      cell(new Date(snapshot.created_ns / 1e6).toLocaleString()),
      cell(snapshot.description),
      cell(Object.entries(snapshot.labels).map(([name, value]) => `${name}: ${value}`).join(", ")),
    ]),
    "there is no snapshot",
  );
  const chosen = find("at").value;
  find("at").replaceChildren(
    element("option", { value: "" }, "now"),
    ...snapshots.map((each) => element("option", { value: each.id }, each.name)),
  );
  if (snapshots.some((each) => each.id === chosen)) find("at").value = chosen;
}

// --- events -------------------------------------------------------------------------------------
async function loadLog() {
  try {
    const events = (await ask("log")).events;
    fill(
      "log",
      events.map((event) => [
        element("th", { scope: "row", class: "word" }, new Date(event.at_ns / 1e6).toLocaleString()),
        word(event.kind),
        cell(event.subject),
        cell(event.detail),
      ]),
      "nothing happened yet",
    );
  } catch (error) {
    fill("log", [], error.message);
  }
}

// --- over time: what a report tells -----------------------------------------------------------------
let reported = [];

async function loadReport() {
  let report;
  try {
    report = await ask("report", { span: find("span").value });
  } catch (error) {
    find("measured").textContent = `cannot be told: ${error.message}`;
    return;
  }
  find("measured").textContent = `as of ${new Date().toLocaleTimeString()}`;
  find("sentences").replaceChildren(
    ...report.sentences.map((each) =>
      element(
        "li",
        { class: each.weight },
        ...written(each.text),
        ...(each.remedy ? [element("span", { class: "remedy" }, ...written(each.remedy))] : []),
      ),
    ),
  );
  reported = report.charts;
  const names = reported.map((chart) => chart.name).join(" ");
  if (find("charts").dataset.names !== names) {
    find("charts").dataset.names = names;
    find("charts").replaceChildren(...reported.map(frame));
  }
  for (const chart of reported) fillFrame(chart);
  drawCharts();
}

function frame(chart) {
  return element(
    "figure",
    { id: `frame-${chart.name}` },
    element("figcaption", {}, chart.title),
    element("p", { class: "hint" }, ...written(chart.description)),
    element("div", { class: chart.is_tall ? "chart tall" : "chart", id: `chart-${chart.name}`, role: "img", "aria-label": chart.title }),
    element("p", { class: "hint nothing" }, "nothing so far"),
    element(
      "details",
      {},
      element("summary", {}, `${chart.title} as a table`),
      element(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": `${chart.title} as a table` },
        element(
          "table",
          {},
          element("thead", {}, element("tr", {}, ...chart.head.map((each) => element("th", { scope: "col" }, each)))),
          element("tbody"),
        ),
      ),
    ),
  );
}

function fillFrame(chart) {
  const made = find(`frame-${chart.name}`);
  const isEmpty = chart.option === null;
  made.querySelector("figcaption").textContent = chart.title;
  made.querySelector(".hint").replaceChildren(...written(chart.description));
  made.querySelector(".chart").hidden = isEmpty;
  made.querySelector(".nothing").hidden = !isEmpty;
  made.querySelector("details").hidden = chart.rows.length === 0;
  made.querySelector("tbody").replaceChildren(
    ...chart.rows.map((row) => element("tr", {}, ...row.map(cell))),
  );
}

function drawCharts() {
  for (const chart of reported) {
    if (chart.option !== null) memfsCharts.draw(chart, find(`chart-${chart.name}`));
  }
  find("charts").dataset.drawn = "true";
}

function resizeCharts() {
  for (const place of document.querySelectorAll(".chart:not([hidden])")) {
    echarts.getInstanceByDom(place)?.resize();
  }
}

// --- start --------------------------------------------------------------------------------------
find("order").addEventListener("change", () => { leaveSearch(); load(); });
find("refresh").addEventListener("click", () => { loadSnapshots(); if (place.found) search(false); else load(); });
find("more").addEventListener("click", () => search(true));
find("clear").addEventListener("click", () => { leaveSearch(); load(); });
find("close").addEventListener("click", closeWhy);
find("search").addEventListener("submit", (event) => { event.preventDefault(); search(false); });
find("why").addEventListener("keydown", (event) => { if (event.key === "Escape") closeWhy(); });
setInterval(() => { if (watched !== null && find("state").className === "up" && !document.hidden) look(watched); }, WATCH_MS);
setInterval(() => { if (find("state").className === "up" && !document.hidden) loadLog(); }, LOG_MS);
setInterval(() => { if (find("state").className === "up" && !document.hidden) loadReport(); }, REPORT_MS);
find("span").addEventListener("change", loadReport);
memfsCharts.onScheme(drawCharts);
addEventListener("resize", resizeCharts);
listen();
