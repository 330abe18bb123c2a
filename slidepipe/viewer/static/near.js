// The neighbours of an object in the reference set, as small pictures.

import { element, stamp } from "./store.js";

export function neighbours(n, nearest) {
  if (!nearest.length) return element("p", { class: "muted", text: "none" });
  return element("div", { class: "near" }, ...nearest.slice(0, 6).map((other, place) => {
    const image = other.picture
      ? element("img", { src: `/reference/${n}/${place}.jpg?v=${stamp}`, alt: other.reference })
      : element("span", { class: "muted", text: "(image not here)" });
    return element("figure", {}, image, element("figcaption", {}, element("i", { text: other.genus }), ` ${other.distance.toPrecision(3)}`,
      element("br"), other.reference));
  }));
}
