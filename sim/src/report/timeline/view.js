
// Drawing of the page. All rows have the same height, and only visible rows are in the document, so
// that the cost of scrolling does not depend on the number of events. Text of the trace is only set
// as text, never as markup.

const ROW_PX = 22;
const GUTTER_PX = 270;
// Space for the text of the last lane.
const TAIL_PX = 380;
const LANE_PX_MIN = 20;
const LANE_PX_MAX = 480;
// Below this width, the names of the lanes are vertical.
const NARROW_PX = 96;

const $ = (id) => document.getElementById(id);
let lanePx = 0;
let isFit = true;

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

// Returns the text with its matches marked.
function marked(text) {
  if (!shown.pattern) return [text];
  const parts = [];
  let done = 0;
  for (const { 0: found, index } of text.matchAll(shown.pattern)) {
    parts.push(text.slice(done, index), make("mark", "", found));
    done = index + found.length;
  }
  return [...parts, text.slice(done)];
}

function laneX(lane) {
  return Math.max(shown.lanes.indexOf(lane), 0) * lanePx;
}

// Draws the names of the lanes and sets all sizes.
function drawFrame() {
  const count = shown.lanes.length;
  if (isFit) lanePx = Math.floor(($("scroll").clientWidth - GUTTER_PX - TAIL_PX) / count);
  lanePx = Math.min(Math.max(lanePx, LANE_PX_MIN), isFit ? 180 : LANE_PX_MAX);
  document.body.style.setProperty("--lane", `${lanePx}px`);
  document.body.style.setProperty("--gutter", `${GUTTER_PX}px`);
  const width = `${Math.max(GUTTER_PX + count * lanePx + TAIL_PX, $("scroll").clientWidth)}px`;
  $("head").style.width = $("body").style.width = width;
  $("body").style.height = `${shown.rows.length * ROW_PX}px`;
  $("corner").style.width = $("grid").style.left = `${GUTTER_PX}px`;
  $("grid").style.width = `${count * lanePx + 1}px`;
  $("head").className = lanePx < NARROW_PX ? "narrow" : "";
  $("head").replaceChildren($("corner"), ...shown.lanes.map(laneName));
}

function laneName(lane) {
  const name = make("div", chosen.lit.has(lane) ? "lane lit" : "lane", lanes[lane]);
  name.style.width = `${lanePx}px`;
  name.title = `${lanes[lane]}: ${laneCounts[lane]} events; click to select this lane`;
  name.dataset.lane = lane;
  return name;
}

const laneCounts = lanes.map(() => 0);
events.forEach((event) => laneCounts[event.lane]++);

// Returns the first visible row, the row after the last, and the number of full rows.
function sight() {
  const { scrollTop, clientHeight } = $("scroll");
  const room = clientHeight - $("head").offsetHeight;
  const first = Math.floor(scrollTop / ROW_PX);
  return { first, last: Math.min(Math.ceil((scrollTop + room) / ROW_PX), shown.rows.length), full: Math.floor(room / ROW_PX) };
}

function isInSight(event) {
  if (!event || !isShown(event)) return false;
  const { first, last } = sight();
  return rowOf(event) >= first && rowOf(event) < last;
}

function draw() {
  const { first, last } = sight();
  const from = Math.max(first - 10, 0);
  const to = Math.min(last + 10, shown.rows.length);
  $("rows").replaceChildren(...shown.rows.slice(from, to).map((event, number) => row(event, from + number)));
  $("grid").replaceChildren(...[...chosen.lit].map(column), ...flightsWithin(from, to).map(flight));
  $("corner").textContent = `${shown.rows[first] ? `incarnation ${shown.rows[first].life}\n` : ""}${"time".padStart(11)}${"step".padStart(7)}  lane`;
  const scale = $("map").clientHeight / Math.max(shown.rows.length, 1);
  $("window").style.top = `${first * scale}px`;
  $("window").style.height = `${Math.max((last - first) * scale, 3)}px`;
}

function row(event, number) {
  const before = shown.rows[number - 1];
  const isSame = before && seconds(before.us) === seconds(event.us);
  const when = make("div", "when",
    make("span", isSame ? "at same" : "at", seconds(event.us)),
    make("span", "number", String(event.step)),
    make("span", "who", ...marked(lanes[event.lane])),
    make("span", "aside", event.edge === "" ? aside(laneX(event.lane)) : ""));
  const said = make("div", "event",
    make("i", ""), make("span", "what", ...marked(event.what)), make("span", "detail", ...marked(event.detail)));
  const line = make("div", `row ${event.kind}`, when, said);
  if (event.edge) line.classList.add("edge", event.edge);
  if (event.hit) line.classList.add("hit");
  if (event === chosen.event) line.classList.add("chosen");
  if (chosen.lit.size && !event.edge) line.classList.add(isLit(event) ? "lit" : "dim");
  if (before && !event.edge && event.us - before.us >= 1e6) line.classList.add("jump");
  line.style.top = `${number * ROW_PX}px`;
  line.dataset.event = event.index;
  when.style.width = `${GUTTER_PX}px`;
  if (event.edge === "" || event.edge === "crash") said.style.left = `${GUTTER_PX + laneX(event.lane)}px`;
  return line;
}

// Returns true for events that are highlighted while lanes are selected: those of these lanes, and
// violations.
function isLit(event) {
  return chosen.lit.has(event.lane) || event.kind === "violation" || event === chosen.event;
}

// Returns the direction of a lane outside of the window.
function aside(x) {
  const { scrollLeft, clientWidth } = $("scroll");
  if (x + 8 < scrollLeft) return "◂";
  return x > scrollLeft + clientWidth - GUTTER_PX - 8 ? "▸" : "";
}

function column(lane) {
  const column = make("div", "column");
  column.style.left = `${laneX(lane)}px`;
  return column;
}

function flightsWithin(from, to) {
  return flights.filter(({ lane, from: call, to: end }) =>
    (!isSolo() || chosen.lit.has(lane)) && rowOf(call) < to && rowOf(end) >= from);
}

function flight({ lane, from, to, isOpen }) {
  const bar = make("div", isOpen ? "flight open" : "flight");
  bar.style.left = `${laneX(lane)}px`;
  bar.style.top = `${(rowOf(from) + 0.5) * ROW_PX}px`;
  bar.style.height = `${(rowOf(to) - rowOf(from)) * ROW_PX}px`;
  return bar;
}

// Draws all rows on a strip. Later strokes cover earlier strokes.
function drawMap() {
  const canvas = $("canvas");
  const scale = window.devicePixelRatio || 1;
  canvas.width = $("map").clientWidth * scale;
  canvas.height = $("map").clientHeight * scale;
  const paint = canvas.getContext("2d");
  const style = getComputedStyle(document.body);
  const stroke = (test, colour, left, right, thickness) => {
    paint.fillStyle = style.getPropertyValue(colour);
    shown.rows.forEach((event, number) => {
      if (!test(event)) return;
      const y = Math.floor((number / shown.rows.length) * canvas.height);
      paint.fillRect(left * canvas.width, y, (right - left) * canvas.width, thickness * scale);
    });
  };
  stroke((event) => event.kind === "commit", "--commit", 0.1, 0.4, 1);
  stroke((event) => event.hit, "--effect", 0.6, 1, 2);
  stroke((event) => event.kind === "fault", "--fault", 0.1, 0.6, 2);
  stroke((event) => event.edge === "begin", "--world", 0, 1, 1);
  stroke((event) => event.edge === "crash", "--fault", 0, 1, 2);
  stroke((event) => event.kind === "violation", "--violation", 0, 1, 4);
}

function drawCount() {
  const { hits, hiddenHits, pattern } = shown;
  const at = chosen.event ? hits.indexOf(shown.rows.indexOf(chosen.event)) : -1;
  const others = hiddenHits ? ` (+${hiddenHits} hidden)` : "";
  const text = pattern === undefined ? "invalid regex" : `${at < 0 ? "–" : at + 1}/${hits.length}${others}`;
  $("count").textContent = chosen.query === "" ? "" : text;
  $("query").classList.toggle("wrong", chosen.query !== "" && (!pattern || !hits.length));
}

// Draws the details of the selected event.
function drawChosen() {
  const event = chosen.event;
  if (!event) {
    $("chosen").replaceChildren(make("p", "quiet", "Click an event to show its details here. ? shows the keys."));
    return;
  }
  const where = `${seconds(event.us)}   step ${event.step}   incarnation ${event.life}   event ${event.index}   `;
  const head = make("p", event.kind, make("span", "quiet", where), `${lanes[event.lane]}   `, make("b", "", event.kind));
  const flight = flightOf.get(event);
  if (flight) head.append("   ", partner(event, flight));
  $("chosen").replaceChildren(head, make("p", event.kind, make("b", "", event.what), "  ", event.detail));
}

function partner(event, { from, to, isOpen }) {
  const took = seconds(to.us - from.us);
  const answered = isOpen ? `no answer in this incarnation (${took})` : `answered after ${took}`;
  const button = make("button", "", event === from ? answered : `called ${took} before`);
  button.dataset.event = (event === from ? to : from).index;
  return button;
}

// Creates the constant parts of the bar, with a check box for each kind of event.
function makeBar() {
  const last = events.at(-1) ?? { life: 0, step: 0, us: 0 };
  $("title").textContent = document.title;
  $("total").textContent = `${events.length} events, ${last.life} incarnations, ${last.step} steps, ${seconds(last.us)}`;
  $("kinds").replaceChildren(...KINDS.map((kind) => {
    const count = events.filter((event) => event.kind === kind).length;
    const box = make("input", "");
    box.type = "checkbox";
    box.dataset.kind = kind;
    return make("label", kind, box, `${kind} ${count}`);
  }));
}

function drawBar() {
  $("query").value = chosen.query;
  $("solo").checked = chosen.solo;
  $("only").checked = chosen.only;
  $("kinds").querySelectorAll("input").forEach((box) => (box.checked = !chosen.hidden.has(box.dataset.kind)));
}

// Redraws after a change of the selection. The selected event, or else the top row, keeps its place
// on the screen.
function refresh() {
  const anchor = isInSight(chosen.event) ? chosen.event : shown.rows[sight().first];
  const offset = anchor ? rowOf(anchor) * ROW_PX - $("scroll").scrollTop : 0;
  update();
  drawFrame();
  if (anchor) $("scroll").scrollTop = rowOf(anchor) * ROW_PX - offset;
  drawBar();
  drawMap();
  drawLook();
}

// Selects an event, or none.
function look(event) {
  chosen.event = event;
  if (event && isShown(event)) reveal(event);
  drawLook();
}

function drawLook() {
  draw();
  drawCount();
  drawChosen();
  for (const name of $("head").querySelectorAll(".lane")) {
    name.classList.toggle("here", Number(name.dataset.lane) === chosen.event?.lane);
  }
  clearTimeout(linking);
  linking = setTimeout(link, 200);
}

// Keeps the address in step with the selection. It is delayed, because browsers limit the rate of
// changes.
let linking = 0;
function link() {
  history.replaceState(null, "", `#${toHash()}`);
}

function reveal(event) {
  const scroll = $("scroll");
  const { first, full } = sight();
  const row = rowOf(event);
  if (row < first + 1 || row > first + full - 2) scroll.scrollTop = (row - Math.floor(full / 2)) * ROW_PX;
  const x = laneX(event.lane);
  const room = scroll.clientWidth - GUTTER_PX - Math.min(TAIL_PX, scroll.clientWidth / 3);
  if (x < scroll.scrollLeft || x > scroll.scrollLeft + room) scroll.scrollLeft = x - room / 2;
}
