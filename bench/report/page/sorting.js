// Sorting of rows by a column: by number where every cell begins with one, else as text; missing values come last.
const DASH = "–";
const NUMBER = /^(?:\*\*)?\s*[<>≤≥~±]?\s*([+\-−]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[+\-]?\d+)?)(?![\w.])/i;
const texts = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

// "86.2 [72.5, 99.8]" is 86.2, "**1,792** †" is 1792; NaN for what begins with no number.
function numberOf(text) {
  const found = NUMBER.exec(text);
  return found ? Number(found[1].replaceAll(",", "").replace("−", "-")) : NaN;
}

const isMissing = (value) => value === null || value === undefined || value === "" || value === DASH || value === "nan";

// Values as what they are compared by, and whether that is numbers.
function comparable(values) {
  const present = values.filter((value) => !isMissing(value));
  const numeric = present.length > 0 && present.every((value) => typeof value === "number" || !Number.isNaN(numberOf(value)));
  const keys = values.map((value) => {
    if (isMissing(value)) return null;
    return numeric && typeof value === "string" ? numberOf(value) : value;
  });
  return { numeric, keys };
}

// The places of the rows in their new order; equal ones keep theirs.
function order(values, direction) {
  const { numeric, keys } = comparable(values);
  const sign = direction === "descending" ? -1 : 1;
  return keys.map((_, place) => place).sort((a, b) => {
    if (keys[a] === null || keys[b] === null) return (keys[a] === null) - (keys[b] === null) || a - b;
    return sign * (numeric ? keys[a] - keys[b] : texts.compare(keys[a], keys[b])) || a - b;
  });
}

const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

// A row of headings that sort; `sorted(column, direction)` is called with "ascending", "descending" or "none".
function sortableHead(columns, sorted) {
  const heads = columns.map(({ title, numeric }, column) => {
    const button = element("button", { type: "button", class: "sort" }, title);
    button.addEventListener("click", () => {
      const direction = NEXT[heads[column].getAttribute("aria-sort")];
      show(column, direction);
      sorted(column, direction);
    });
    return element("th", { scope: "col", "aria-sort": "none", class: numeric ? "number" : null }, button);
  });
  function show(column, direction) {
    heads.forEach((head, place) => head.setAttribute("aria-sort", place === column ? direction : "none"));
  }
  return { head: element("thead", {}, element("tr", {}, ...heads)), show };
}
