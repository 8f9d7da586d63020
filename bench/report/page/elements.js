// Elements from names and texts: children that are strings become text nodes, so nothing is ever parsed as markup.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Markdown's **bold** and `code`, the only marks that tables and notes carry.
function marked(text) {
  return text.split(/(\*\*.+?\*\*|`[^`]+`)/).filter(Boolean).map((part) => {
    if (/^\*\*.+\*\*$/.test(part)) return element("strong", {}, part.slice(2, -2));
    if (/^`.+`$/.test(part)) return element("code", {}, part.slice(1, -1));
    return part;
  });
}

async function copy(button, source) {
  const text = source.textContent;
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection().selectAllChildren(source); // refused: what is selected can be copied by hand
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Selected";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

function scrollBox(label, child) {
  return element("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, child);
}
