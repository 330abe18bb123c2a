// The well page: the table of counts, which follows the labels.

import { refreshCounts } from "./counts.js";
import { labels, startUpdates } from "./labels.js";
import { byId, element, request, showProblem, showStatus, taxonName } from "./page.js";

function show(counts) {
  const rows = counts.genera.map((row) => {
    const address = `/grid?${new URLSearchParams({ name: row.genus })}`;
    const link = element("a", { href: address }, element("i", { text: taxonName(row.genus) }));
    const interval = row.corrected === "" ? "" : `${row.corrected_low} to ${row.corrected_high}`;
    const changed = row.reviewed !== row.count;
    return element("tr", { "data-genus": row.genus },
      element("td", {}, link),
      element("td", { class: "number", text: row.count }),
      element("td", { class: changed ? "number changed" : "number", text: row.reviewed }),
      element("td", { class: "number", text: row.missed || "" }),
      element("td", { class: "number", text: row.corrected }),
      element("td", { class: "number", text: interval }));
  });
  document.querySelector("#counts tbody").replaceChildren(...rows);
  byId("counts").classList.toggle("no-estimate", counts.genera.every((row) => row.corrected === ""));
  const sentences = [`${counts.labelled} objects have a label, ${counts.missed} fossils were drawn by hand.`];
  if (counts.stale) sentences.push(`${counts.stale} labels belong to objects that are not in these results any more; they are not counted.`);
  if (counts.correction && counts.labelled) sentences.push(`Estimate: ${counts.correction}.`);
  showStatus(sentences.join(" "));
}

labels.addEventListener("change", () => refreshCounts(show));
request("/api/counts").then(show, (error) => showProblem(error.message));
startUpdates();
