"use strict";

// Filters the claims by verdict and by words; without scripts they are all there, folded.

function claimsFilter() {
  const tables = [...document.querySelectorAll(".dd-claims")];
  const wereOpen = tables.map((table) => table.open);
  const rows = tables.flatMap((table) => [...table.querySelectorAll("tbody tr")]);
  const verdicts = new Set(rows.map((row) => row.cells[1].textContent.trim()));
  const choice = document.createElement("select");
  choice.append(new Option("all verdicts", ""), ...[...verdicts].sort().map((name) => new Option(name, name)));
  const words = Object.assign(document.createElement("input"), { type: "search", placeholder: "for example 93.76 fig2a" });
  const found = Object.assign(document.createElement("span"), { role: "status" });

  function filter() {
    const wanted = words.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    const chosen = rows.filter((row) => {
      const right = !choice.value || row.cells[1].textContent.trim() === choice.value;
      const text = row.textContent.toLowerCase();
      row.hidden = !(right && wanted.every((word) => text.includes(word)));
      return !row.hidden;
    });
    const isFiltered = Boolean(choice.value || wanted.length);
    tables.forEach((table, i) => {
      table.open = isFiltered ? chosen.some((row) => table.contains(row)) : wereOpen[i];
    });
    found.textContent = isFiltered ? `${chosen.length} of ${rows.length} rows` : "";
  }

  const label = (text, control) => {
    const made = document.createElement("label");
    made.append(text, control);
    return made;
  };
  choice.onchange = filter;
  words.oninput = filter;
  document.getElementById("claims-filter").append(label("Verdict ", choice), label("Words ", words), found);
}

claimsFilter();
