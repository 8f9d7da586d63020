// The list of runs: a row each, which opens to its configuration and the command that makes it again.
const PAGE_ROWS = 100;
const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs.map((run) => ({ scores: [], ...run, ...data.cells[run.cell] }));
const shared = (title, key) => ({ title, text: (run) => run[key] ?? DASH, value: (run) => run[key] });
const COLUMNS = [
  shared("method", "label"), shared("status", "status"), shared("rank", "rank"), shared("task", "task"),
  shared("model", "model"), { ...shared("seed", "seed"), numeric: true },
  { title: "stage", text: (run) => run.stages.join(", ") || DASH, value: (run) => run.stages.join(", ") },
  { title: "learning rate", numeric: true, text: (run) => rateText(run.rate), value: (run) => run.rate },
  { title: "score", numeric: true, text: scoreText, value: (run) => run.scores[0]?.[1] },
  { title: "seconds", numeric: true, text: (run) => run.seconds?.toFixed(1) ?? DASH, value: (run) => run.seconds },
];

const grouped = (number) => number.toLocaleString("en");

// As the tables print it, with Python's %g.
function rateText(rate) {
  if (rate === null || rate === undefined) return DASH;
  return rate > 0 && rate < 1e-4 ? rate.toExponential().replace(/e-(\d)$/, "e-0$1") : String(rate);
}

function scoreText(run) {
  if (run.scores.length === 0) return DASH;
  const [name, , text] = run.scores[0];
  return `${text} ${name}${run.scores.length > 1 ? `, +${run.scores.length - 1}` : ""}`;
}

// Details of a run, built when they are opened.
function details(run) {
  const code = element("code", {}, run.command.replace("\0", run.seed));
  const button = element("button", { type: "button", class: "copy" }, "Copy");
  button.addEventListener("click", () => copy(button, code));
  const settings = element("details", {}, element("summary", {}, "Configuration"));
  const sections = Object.entries(data.settings[run.settings]).map(([name, place]) => [name, data.sections[place]]);
  const config = { ...(run.seed === undefined ? {} : { seed: run.seed }), ...Object.fromEntries(sections) };
  settings.append(element("pre", { tabindex: "0" }, JSON.stringify(config, null, 2)));
  const facts = [["run", run.id], ["reason", run.reason], ...run.scores.map(([name, , text]) => [name, text])]
    .filter(([, value]) => value);
  return element(
    "div", { class: "detail" },
    element("dl", {}, ...facts.map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text)))),
    ...(run.command ? [element("div", { class: "command" }, element("pre", { tabindex: "0" }, code), button)] : []),
    settings,
  );
}

function row(run) {
  const button = element("button", { type: "button", class: "open name", "aria-expanded": "false" }, run.label);
  const cells = COLUMNS.slice(1).map((column) => element(
    "td", { class: column.numeric ? "number" : column.title === "status" ? `status ${run.status}` : null }, column.text(run),
  ));
  const line = element("tr", {}, element("th", { scope: "row" }, button), ...cells);
  let opened = null;
  button.addEventListener("click", () => {
    if (opened) { opened.remove(); opened = null; } else {
      opened = element("tr", { class: "opened" }, element("td", { colspan: COLUMNS.length }, details(run)));
      line.after(opened);
    }
    button.setAttribute("aria-expanded", String(opened !== null));
  });
  return line;
}

// The list under its headings: `show(found)` lists these, a page of rows at a time.
function runList(sorted) {
  const body = element("tbody");
  const { head, show: showSorting } = sortableHead(COLUMNS, sorted);
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  let found = [];
  let listed = 0;

  function page() {
    body.append(...found.slice(listed, listed + PAGE_ROWS).map(row));
    listed = Math.min(listed + PAGE_ROWS, found.length);
    const part = listed < found.length ? `, the first ${grouped(listed)} listed` : "";
    count.textContent = `${grouped(found.length)} of ${grouped(runs.length)} runs${part}`;
    more.hidden = listed === found.length;
    button.textContent = `Show ${Math.min(PAGE_ROWS, found.length - listed)} more`;
  }
  const button = element("button", { type: "button" });
  button.addEventListener("click", () => {
    const next = listed;
    page();
    body.querySelectorAll("button.open")[next].focus();
  });
  more.append(button);
  document.getElementById("run-table").append(scrollBox("Runs", element("table", { class: "runs" }, head, body)));
  function show(these) {
    found = these;
    listed = 0;
    body.replaceChildren();
    page();
  }
  return { show, showSorting };
}
