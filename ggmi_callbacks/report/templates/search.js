"use strict";
(() => {
  const MOST = 50;
  const form = document.getElementById("search");
  const query = document.getElementById("query");
  const found = document.getElementById("found");
  const count = document.getElementById("count");
  const rows = JSON.parse(document.getElementById("index").textContent);
  const words = rows.map(([id, , source, kept, text]) =>
    `${id} ${source} ${kept ? "kept" : "dropped"} ${text}`.toLowerCase());

  const element = (name, className, text) => {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  };

  const item = ([id, gain, source, kept, text]) => {
    const made = element("li", "card", "");
    const facts = element("p", "facts", "");
    facts.append(element("strong", "", gain), ` gain, sample ${id} `,
      element("span", kept ? "badge is-kept" : "badge is-dropped", kept ? "kept" : "dropped"), ` ${source}`);
    made.append(facts);
    if (text) {
      const said = element("p", "said", text);
      said.dir = "auto";
      made.append(said);
    }
    return made;
  };

  const search = () => {
    const wanted = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!wanted.length) {
      found.replaceChildren();
      count.textContent = "";
      return;
    }
    const hits = rows.filter((row, i) => wanted.every((word) => words[i].includes(word)));
    found.replaceChildren(...hits.slice(0, MOST).map(item));
    count.textContent = `${hits.length.toLocaleString("en")} found` +
      (hits.length > MOST ? `, the first ${MOST} are shown` : "");
  };

  let waiting;
  query.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 80);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
})();
