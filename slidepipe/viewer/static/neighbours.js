// The neighbours of an object in the reference set, as small pictures.

import { element, taxonName, version } from "./page.js";

const MAX_SHOWN = 6;

// number: of the object; nearest: its neighbours, {genus, reference, distance, has_image}, nearest first.
export function neighbourList(number, nearest) {
  if (!nearest.length) return element("p", { class: "muted", text: "none" });
  return element("div", { class: "neighbours" }, ...nearest.slice(0, MAX_SHOWN).map((neighbour, place) => {
    const image = neighbour.has_image
      ? element("img", { src: `/reference/${number}/${place}.jpg?v=${version}`, alt: neighbour.reference })
      : element("span", { class: "muted", text: "(image not found)" });
    const caption = element("figcaption", {}, element("i", { text: taxonName(neighbour.genus) }), ` ${neighbour.distance.toPrecision(3)}`,
      element("br"), neighbour.reference);
    return element("figure", {}, image, caption);
  }));
}
