// Filters, search and sorting of the list of runs; the address after # says what is shown, so that it can be shared.
const FILTERS = ["method", "rank", "task", "model", "seed", "stage", "status"].map((name) => {
  const special = { seed: (run) => [String(run.seed ?? DASH)], stage: (run) => run.stages };
  return { name, of: special[name] ?? ((run) => [run[name]]), chosen: new Set() };
});
const LABELS = new Map(runs.map((run) => [run.method, run.label]));
const ORDERS = { stage: data.stages, status: data.statuses, method: [...LABELS.keys()] };
const search = element("input", { type: "search", id: "search", placeholder: "Words of any column or error" });
let sorting = { column: 0, direction: "none" };

function words(run) {
  run.words ??= [run.id, run.method, run.label, run.rank, run.task, run.model, run.status, run.reason, ...run.stages,
    rateText(run.rate)].join(" ").toLowerCase();
  return run.words;
}

function matching() {
  const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const active = FILTERS.filter((filter) => filter.chosen.size > 0);
  const found = runs.filter((run) => wanted.every((word) => words(run).includes(word))
    && active.every((filter) => filter.of(run).some((value) => filter.chosen.has(value))));
  if (sorting.direction === "none") return found;
  return order(found.map(COLUMNS[sorting.column].value), sorting.direction).map((place) => found[place]);
}

// A filter opens to its values; none chosen means any.
function filterBox(filter) {
  const values = [...new Set(runs.flatMap(filter.of))];
  const known = ORDERS[filter.name]?.filter((value) => values.includes(value)) ?? values.sort(texts.compare);
  const label = (value) => (filter.name === "method" ? LABELS.get(value) : value);
  const boxes = known.map((value) => {
    const box = element("input", { type: "checkbox", name: filter.name, value });
    box.addEventListener("change", () => {
      if (box.checked) filter.chosen.add(value);
      else filter.chosen.delete(value);
      changed();
    });
    return box;
  });
  const text = element("span", { class: "chosen" });
  const choices = boxes.map((box) => element("label", {}, box, element("span", {}, label(box.value))));
  const details = element(
    "details", { class: "filter", name: "filter" },
    element("summary", {}, `${filter.name}: `, text), element("div", { class: "choices" }, ...choices),
  );
  details.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    details.open = false;
    details.querySelector("summary").focus();
  });
  filter.known = new Set(known);
  filter.show = () => {
    for (const box of boxes) box.checked = filter.chosen.has(box.value);
    const chosen = known.filter((value) => filter.chosen.has(value)).map(label);
    text.textContent = chosen.length > 2 ? `${chosen.length} of ${known.length}` : chosen.join(", ") || "any";
    details.classList.toggle("active", chosen.length > 0);
  };
  return details;
}

function refresh() {
  for (const filter of FILTERS) filter.show();
  list.showSorting(sorting.column, sorting.direction);
  list.show(matching());
}

function changed() {
  const state = new URLSearchParams();
  for (const filter of FILTERS) for (const value of filter.chosen) state.append(filter.name, value);
  if (search.value.trim()) state.set("search", search.value.trim());
  if (sorting.direction !== "none") {
    state.set("sort", (sorting.direction === "descending" ? "-" : "") + COLUMNS[sorting.column].title);
  }
  history.replaceState(null, "", `#${state}`);
  refresh();
}

function restore() {
  const state = new URLSearchParams(location.hash.slice(1));
  for (const filter of FILTERS) {
    filter.chosen = new Set(state.getAll(filter.name).filter((value) => filter.known.has(value)));
  }
  search.value = state.get("search") ?? "";
  const sort = state.get("sort") ?? "";
  const column = COLUMNS.findIndex(({ title }) => title === sort.replace(/^-/, ""));
  sorting = { column, direction: column < 0 ? "none" : sort.startsWith("-") ? "descending" : "ascending" };
  refresh();
}

function filters() {
  const form = document.getElementById("filters");
  const reset = element("button", { type: "button", id: "reset" }, "Reset");
  reset.addEventListener("click", () => {
    for (const filter of FILTERS) filter.chosen.clear();
    search.value = "";
    sorting = { column: 0, direction: "none" };
    changed();
  });
  search.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.append(
    element("label", { class: "search", for: "search" }, "Search ", search), ...FILTERS.map(filterBox), reset,
  );
  document.addEventListener("click", (event) => {
    for (const open of form.querySelectorAll("details[open]")) if (!open.contains(event.target)) open.open = false;
  });
  addEventListener("hashchange", restore);
}

document.getElementById("tables").append(...data.tables.map(resultTable));
for (const id of ["tables", "figures"]) {
  const section = document.getElementById(id);
  section.hidden = !section.querySelector("table, figure");
  document.querySelector(`nav [data-jump=${id}]`).hidden = section.hidden;
}
const list = runList((column, direction) => { sorting = { column, direction }; changed(); });
enlargeFigures();
jumpWithoutHash();
filters();
restore();
