// State of the page: all events, the events that are shown, and the matches of the search. Drawing
// is in view.js.

const trace = JSON.parse(document.getElementById("trace").textContent);
const lanes = trace.lanes;
const KINDS = ["violation", "fault", "world", "commit", "effect", "call", "answer", "step"];

const events = trace.events.map(([us, step, life, lane, name, what, detail], index, all) => {
  const kind = name.toLowerCase();
  const begins = life !== (index > 0 ? all[index - 1][2] : 0);
  const text = `${lanes[lane]} ${kind} ${what} ${detail}`;
  return { index, us, step, life, lane, kind, what, detail, text, edge: edgeOf(kind, lane, what, begins), hit: false };
});

// Returns the kind of an event of the whole world, such as the start of an incarnation. It is drawn
// across all lanes.
function edgeOf(kind, lane, what, begins) {
  if (kind === "world" && lane === 0) return begins ? "begin" : "world";
  return kind === "fault" && what === trace.crash ? "crash" : "";
}

// Selection of the user, and the state derived from it: `rows` are the shown events, `hits` the
// numbers of matching rows.
const chosen = { hidden: new Set(), lit: new Set(), solo: false, only: false, query: "", event: null };
const shown = { pattern: null, rows: [], rowOf: new Int32Array(events.length), hits: [], hiddenHits: 0, lanes: [] };

// Intervals from a call to its answer, or to the end of its incarnation if there is no answer.
const flights = flightsOf(events);
const flightOf = new Map(flights.flatMap((flight) => [[flight.from, flight], [flight.to, flight]]));

function flightsOf(events) {
  const flights = [];
  const open = new Map();
  const close = (to, isOpen) => (lane) => {
    const from = open.get(lane);
    if (from) flights.push({ lane, from, to, isOpen });
    open.delete(lane);
  };
  let last = null;
  for (const event of events) {
    if (last && event.life !== last.life) [...open.keys()].forEach(close(last, true));
    if (event.kind === "call") open.set(event.lane, event);
    if (event.kind === "answer") close(event, false)(event.lane);
    last = event;
  }
  [...open.keys()].forEach(close(last, true));
  return flights;
}

// Returns the pattern of a text or a /regular expression/, null for an empty query, and undefined
// for an invalid expression.
function patternOf(query) {
  if (query === "") return null;
  const regex = /^\/(.+)\/$/.exec(query);
  try {
    return new RegExp(regex ? regex[1] : query.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi");
  } catch {
    return undefined;
  }
}

function isShown(event) {
  if (chosen.hidden.has(event.kind)) return false;
  if (event.edge) return true;
  if (isSolo() && !chosen.lit.has(event.lane)) return false;
  return !(chosen.only && shown.pattern && !event.hit);
}

function isSolo() {
  return chosen.solo && chosen.lit.size > 0;
}

// Updates the derived state in a single pass over all events, which is fast enough for every
// keystroke.
function update() {
  const pattern = (shown.pattern = patternOf(chosen.query));
  shown.lanes = lanes.map((_, lane) => lane).filter((lane) => !isSolo() || lane === 0 || chosen.lit.has(lane));
  shown.rows = [];
  shown.hits = [];
  shown.hiddenHits = 0;
  for (const event of events) {
    event.hit = Boolean(pattern) && event.text.search(pattern) >= 0;
    shown.rowOf[event.index] = shown.rows.length;
    if (!isShown(event)) {
      shown.hiddenHits += event.hit ? 1 : 0;
      continue;
    }
    if (event.hit) shown.hits.push(shown.rows.length);
    shown.rows.push(event);
  }
}

// Returns the row of an event, or that of the next shown event.
function rowOf(event) {
  return Math.min(shown.rowOf[event.index], shown.rows.length - 1);
}

// Returns the nearest row before or after this row that passes the test, wrapping at the ends, or
// -1.
function nearest(row, by, test) {
  const count = shown.rows.length;
  for (let tried = 1; tried <= count; tried++) {
    const at = (((row + by * tried) % count) + count) % count;
    if (test(shown.rows[at])) return at;
  }
  return -1;
}

// Formats 1234567 µs as "1.234 s".
function seconds(us) {
  const ms = Math.floor(us / 1000);
  return `${Math.floor(ms / 1000)}.${String(ms % 1000).padStart(3, "0")} s`;
}

// Encodes the selection as the fragment of a link. `fromHash` decodes it.
function toHash() {
  const hash = new URLSearchParams();
  if (chosen.query) hash.set("q", chosen.query);
  if (chosen.hidden.size) hash.set("hide", [...chosen.hidden].join(","));
  [...chosen.lit].forEach((lane) => hash.append("lane", lanes[lane]));
  if (chosen.solo) hash.set("solo", "1");
  if (chosen.only) hash.set("only", "1");
  if (chosen.event) hash.set("event", chosen.event.index);
  return hash.toString();
}

function fromHash(text) {
  const hash = new URLSearchParams(text);
  chosen.query = hash.get("q") ?? "";
  chosen.hidden = new Set((hash.get("hide") ?? "").split(",").filter((kind) => KINDS.includes(kind)));
  chosen.lit = new Set(hash.getAll("lane").map((name) => lanes.indexOf(name)).filter((lane) => lane >= 0));
  chosen.solo = hash.has("solo");
  chosen.only = hash.has("only");
  chosen.event = hash.has("event") ? (events[Number(hash.get("event"))] ?? null) : null;
}
