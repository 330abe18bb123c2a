// The well page: counts that follow the labels.

import { ask, element, labels, say, start, tellCounts, trouble } from "./store.js";

function show(counts) {
  const rows = counts.genera.map((row) => {
    const link = element("a", { href: `/grid?${new URLSearchParams({ name: row.genus })}` }, element("i", { text: row.genus }));
    const range = row.corrected === "" ? "" : `${row.corrected_low} to ${row.corrected_high}`;
    const changed = row.reviewed !== row.count;
    return element("tr", { "data-genus": row.genus },
      element("td", {}, link),
      element("td", { class: "number", text: row.count }),
      element("td", { class: changed ? "number changed" : "number", text: row.reviewed }),
      element("td", { class: "number", text: row.missed || "" }),
      element("td", { class: "number", text: row.corrected }),
      element("td", { class: "number", text: range }));
  });
  document.querySelector("#counts tbody").replaceChildren(...rows);
  document.getElementById("counts").classList.toggle("no-draw", counts.genera.every((row) => row.corrected === ""));
  const said = `${counts.labelled} objects have a label, ${counts.missed} fossils were drawn by hand.`;
  const stale = counts.stale ? ` ${counts.stale} more are of objects that these results hold no longer, and count nothing.` : "";
  say(`${said}${stale}${counts.correction && counts.labelled ? ` Estimate: ${counts.correction}.` : ""}`);
}

labels.addEventListener("change", () => tellCounts(show));
ask("/api/counts").then(show, (error) => trouble(error.message));
start();
