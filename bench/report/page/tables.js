// The tables of results, and what the whole page shares: jumps to sections and enlarged figures.
const LONG = 48; // characters; longer texts are wrapped

function tableCell(text, column, numeric) {
  const wrapped = column === 0 ? "name" : text.length > LONG ? "long" : null;
  const content = wrapped ? [element("span", { class: wrapped }, ...marked(text))] : marked(text);
  const name = column === 0 ? "th" : "td";
  return element(name, { scope: column === 0 ? "row" : null, class: numeric ? "number" : null }, ...content);
}

function resultTable({ title, columns, rows, notes }) {
  const kinds = columns.map((name, column) => ({
    title: name,
    numeric: comparable(rows.map((row) => row[column])).numeric,
  }));
  const lines = rows.map((row) => element(
    "tr", {}, ...row.map((text, column) => tableCell(text, column, kinds[column].numeric)),
  ));
  const body = element("tbody", {}, ...lines);
  const { head } = sortableHead(kinds, (column, direction) => {
    const places = direction === "none" ? lines.keys() : order(rows.map((row) => row[column]), direction);
    body.replaceChildren(...[...places].map((place) => lines[place]));
  });
  return element(
    "article", {},
    element("h3", {}, title),
    scrollBox(title, element("table", {}, head, body)),
    ...notes.map((note) => element("p", { class: "note" }, ...marked(note))),
  );
}

function enlargeFigures() {
  const dialog = document.getElementById("enlarged");
  const image = dialog.querySelector("img");
  for (const button of document.querySelectorAll("button.enlarge")) {
    button.addEventListener("click", () => {
      const small = button.querySelector("img");
      image.src = small.src;
      image.alt = small.alt;
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

// The address holds the filters, so a jump must not write the section into it.
function jumpWithoutHash() {
  for (const link of document.querySelectorAll("[data-jump]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const section = document.getElementById(link.dataset.jump);
      section.scrollIntoView();
      section.focus({ preventScroll: true });
    });
  }
}
