// Counts that follow the labels.

import { byId, element, request, showProblem, taxonName } from "./page.js";

let timer = null;

// Request the counts and pass them to show. Several calls within a short time become one request.
export function refreshCounts(show) {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    try {
      show(await request("/api/counts"));
    } catch (error) {
      showProblem(error.message);
    }
  }, 120);
}

// Show the counts of a genus in the tool bar, and how many objects have a label.
export function showTally(counts, genus) {
  const tally = byId("tally");
  const row = counts.genera.find((other) => other.genus === genus);
  tally.replaceChildren();
  if (row) {
    tally.append(element("i", { text: taxonName(row.genus) }), ": counted ", element("b", { text: row.count }), ", reviewed ",
      element("b", { text: row.reviewed, id: "reviewed" }));
    if (row.corrected !== "") tally.append(`, estimate ${row.corrected} (${row.corrected_low} to ${row.corrected_high})`);
    tally.append(". ");
  }
  tally.append(`${counts.labelled} labelled, ${counts.missed} drawn`);
}
