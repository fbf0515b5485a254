// What a message holds: its text, and the images, audio clips and files in its list of parts.

import { element } from "./elements.js";
import { shown } from "./json_text.js";

// A text file is a part of this form, which every model reads.
const FILE = /^<file name="([^"\n]*)">\n(.*)\n<\/file>$/s;

// A picture of any other kind is a link: the page loads nothing from elsewhere.
const PICTURE = /^data:image\/(png|jpeg|gif|webp);base64,[a-z0-9+/=]*$/i;

const partsOf = (content) => (Array.isArray(content) ? content : []);
const isOwnText = (part) => part?.type === "text" && !FILE.test(part.text);

/** Return the part of a text file. */
export function textFilePart(name, text) {
  return { type: "text", text: `<file name="${name.replace(/["\n]/g, "_")}">\n${text}\n</file>` };
}

/** Return a content's text, without the files in it. */
export function textOf(content) {
  if (!Array.isArray(content)) return content ?? "";
  return content.filter(isOwnText).map(({ text }) => text).join("\n");
}

/** Return what the server compares of a content: all of its texts. */
export function comparedText(content) {
  if (!Array.isArray(content)) return content ?? "";
  return content.map(({ type, text }) => (type === "text" ? text : "")).join("");
}

/** Return the parts of a content that are no text of its author's. */
export function attachedTo(content) {
  return partsOf(content).filter((part) => typeof part?.type === "string" && !isOwnText(part));
}

/** Return a content of parts and a text; a text alone is a string. */
export function contentOf(parts, text) {
  return parts.length ? [...(text ? [{ type: "text", text }] : []), ...parts] : text;
}

/** Return a name for people of a part. */
export function nameOf(part) {
  switch (part.type) {
    case "text":
      return shown(part.text.match(FILE)?.[1] || "Text");
    case "image_url":
      return "Image";
    case "input_audio":
      return "Audio clip";
    case "file":
      return shown(String(part.file?.filename || "File"));
    default:
      return shown(part.type);
  }
}

export function isPicture(part) {
  return part.type === "image_url" && PICTURE.test(String(part.image_url?.url));
}

/** Return an element that shows these parts, or null if there are none. */
export function mediaBox(parts) {
  return parts.length ? element("div", { class: "media" }, ...parts.map(shownPart)) : null;
}

function shownPart(part) {
  if (isPicture(part)) return element("img", { src: part.image_url.url, alt: "Image" });
  const text = part.type === "text" ? part.text.match(FILE)?.[2] : part.image_url?.url;
  if (typeof text !== "string" || text.startsWith("data:")) return element("span", { class: "chip" }, nameOf(part));
  return element(
    "details",
    { class: "chip" },
    element("summary", {}, nameOf(part)),
    element("pre", { tabindex: "0", role: "group", "aria-label": nameOf(part) }, shown(text)),
  );
}
