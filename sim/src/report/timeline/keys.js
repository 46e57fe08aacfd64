
// Keyboard and mouse events of the page.

const KEYS = [
  ["/", "search", () => $("query").select()],
  ["n", "next match", () => jump(1, (event) => event.hit)],
  ["N", "previous match", () => jump(-1, (event) => event.hit)],
  ["f", "next fault", () => jump(1, (event) => event.kind === "fault")],
  ["F", "previous fault", () => jump(-1, (event) => event.kind === "fault")],
  ["v", "next violation", () => jump(1, (event) => event.kind === "violation")],
  ["V", "previous violation", () => jump(-1, (event) => event.kind === "violation")],
  ["l", "next incarnation", () => jump(1, (event) => event.edge === "begin")],
  ["L", "previous incarnation", () => jump(-1, (event) => event.edge === "begin")],
  ["j", "next event", () => jump(1, () => true)],
  ["k", "previous event", () => jump(-1, () => true)],
  ["J", "next event on the same lane", () => jump(1, (event) => event.lane === chosen.event?.lane)],
  ["K", "previous event on the same lane", () => jump(-1, (event) => event.lane === chosen.event?.lane)],
  ["%", "from a call to its answer, and back", () => cross()],
  ["g", "first event", () => ($("scroll").scrollTop = 0)],
  ["G", "last event", () => ($("scroll").scrollTop = shown.rows.length * ROW_PX)],
  ["c", "select the lane of this event", () => chosen.event && choose(chosen.event.lane)],
  ["s", "only selected lanes", () => flip("solo")],
  ["m", "only matches", () => flip("only")],
  ["t", "show or hide steps", () => toggle("step")],
  ["+", "wider lanes", () => widen(1.4)],
  ["-", "narrower lanes", () => widen(1 / 1.4)],
  ["0", "fit all lanes", () => fit()],
  ["?", "these keys", () => $("keys").showModal()],
  ["Escape", "clear the selection", () => forget()],
];

// Selects the next event that passes the test, from the selected event if it is visible, or else
// from the window.
function jump(by, test) {
  const { first, last } = sight();
  const edge = by > 0 ? first - 1 : last;
  const from = isInSight(chosen.event) ? rowOf(chosen.event) : edge;
  const at = nearest(from, by, test);
  if (at >= 0) look(shown.rows[at]);
}

function cross() {
  const flight = flightOf.get(chosen.event);
  if (flight) look(chosen.event === flight.from ? flight.to : flight.from);
}

function choose(lane) {
  if (!chosen.lit.delete(lane)) chosen.lit.add(lane);
  refresh();
}

function flip(name) {
  chosen[name] = !chosen[name];
  refresh();
}

function toggle(kind) {
  if (!chosen.hidden.delete(kind)) chosen.hidden.add(kind);
  refresh();
}

function widen(by) {
  isFit = false;
  lanePx *= by;
  refresh();
}

function fit() {
  isFit = true;
  refresh();
}

function forget() {
  chosen.event = null;
  chosen.lit.clear();
  refresh();
}

// Searches while the user types, and selects the next match.
function search() {
  chosen.query = $("query").value;
  const isHit = chosen.event?.text.search(patternOf(chosen.query) ?? /$^/) >= 0;
  refresh();
  if (shown.hits.length && !isHit) jump(1, (event) => event.hit);
}

function listen() {
  $("query").addEventListener("input", search);
  $("query").addEventListener("keydown", (key) => {
    if (key.key === "Enter") jump(key.shiftKey ? -1 : 1, (event) => event.hit);
    if (key.key === "Escape" || key.key === "Enter") key.preventDefault();
    if (key.key === "Escape") $("scroll").focus();
  });
  $("kinds").addEventListener("change", (change) => toggle(change.target.dataset.kind));
  $("head").addEventListener("click", ({ target }) => target.dataset.lane && choose(Number(target.dataset.lane)));
  const eventOf = ({ target }) => events[Number(target.closest("[data-event]")?.dataset.event)];
  for (const id of ["rows", "chosen"]) {
    $(id).addEventListener("click", (click) => {
      // A user who marks text wants to copy it, not to select an event.
      if (eventOf(click) && getSelection().isCollapsed) look(eventOf(click));
    });
  }
  const buttons = { next: "n", previous: "N", solo: "s", only: "m", narrower: "-", wider: "+", fit: "0", help: "?" };
  Object.entries(buttons).forEach(([id, key]) => $(id).addEventListener("click", () => press(key)));
  document.addEventListener("keydown", (key) => {
    if (key.target === $("query") || $("keys").open || key.ctrlKey || key.metaKey || key.altKey) return;
    if (press({ ArrowDown: "j", ArrowUp: "k", "=": "+" }[key.key] ?? key.key)) key.preventDefault();
  });
  listenToSizes();
}

function press(name) {
  const known = KEYS.find(([key]) => key === name);
  if (known) known[2]();
  return Boolean(known);
}

function listenToSizes() {
  let isDue = false;
  $("scroll").addEventListener("scroll", () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => { isDue = false; draw(); });
  });
  const drag = (move) => {
    const part = (move.clientY - $("map").getBoundingClientRect().top) / $("map").clientHeight;
    $("scroll").scrollTop = (part * shown.rows.length - sight().full / 2) * ROW_PX;
  };
  $("map").addEventListener("pointerdown", (down) => { $("map").setPointerCapture(down.pointerId); drag(down); });
  $("map").addEventListener("pointermove", (move) => move.buttons && drag(move));
  window.addEventListener("resize", refresh);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
  window.addEventListener("hashchange", begin);
}

// Restores the selection of the link. If the link has a search, the first match is selected.
function begin() {
  fromHash(location.hash.slice(1));
  refresh();
  look(chosen.event ?? shown.rows[shown.hits[0]] ?? null);
}

$("keys").firstElementChild.replaceChildren(...KEYS.map(([key, what]) =>
  make("tr", "", make("td", "", make("kbd", "", key)), make("td", "", what))));
makeBar();
listen();
begin();
$("scroll").focus();
