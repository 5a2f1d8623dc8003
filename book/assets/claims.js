"use strict";

// Filters the claims by verdict and by words; without scripts they are all there, folded.

function claimsFilter() {
  const tables = [...document.querySelectorAll(".dd-claims")];
  const rows = tables.flatMap((table) => [...table.querySelectorAll("tbody tr")]);
  const verdicts = new Set(rows.map((row) => row.cells[1].textContent.trim()));
  const choice = document.createElement("select");
  choice.append(new Option("all verdicts", ""), ...[...verdicts].sort().map((name) => new Option(name, name)));
  const words = Object.assign(document.createElement("input"), { type: "search", placeholder: "for example fig2a, 93.76" });
  const found = Object.assign(document.createElement("span"), { role: "status" });

  function filter() {
    const wanted = words.value.trim().toLowerCase();
    const chosen = rows.filter((row) => {
      const right = !choice.value || row.cells[1].textContent.trim() === choice.value;
      row.hidden = !(right && row.textContent.toLowerCase().includes(wanted));
      return !row.hidden;
    });
    const filtered = Boolean(choice.value || wanted);
    tables.forEach((table) => {
      table.open = filtered && chosen.some((row) => table.contains(row));
    });
    found.textContent = filtered ? `${chosen.length} of ${rows.length} claims` : "";
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
