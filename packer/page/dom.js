// Elements, numbers and colours; and what the page says of itself.

const root = document.documentElement;
const drawn = { histograms: 0, waves: 0, mels: 0, notes: 0, pedals: 0 };
root.dataset.errors = "";
const complain = (text) => {
  root.dataset.errors += `${text}\n`;
};
addEventListener("error", (event) => complain(event.message));
addEventListener("unhandledrejection", (event) => complain(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => complain(`CSP ${event.violatedDirective}`));
const report = () => {
  for (const name in drawn) root.dataset[name] = drawn[name];
};

const byId = (id) => document.getElementById(id);
const read = (element) => JSON.parse(element.textContent);
const about = read(byId("data"));

/** An element with properties and children; text is only ever text. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Text that may break behind `_`, `-` and `/`. */
const breaking = (text) =>
  text.split(/(?<=[_/-])/).flatMap((part, i) => (i ? [make("wbr"), part] : [part]));

function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function icon(path) {
  return draw("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, draw("path", { d: path }));
}

const bytesOf = (base64) => Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
const short = (value) =>
  Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
const whole = (value) => value.toLocaleString("en");
const clock = (seconds) =>
  `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
const size = (bytes) => {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(4, Math.max(0, Math.floor(Math.log10(bytes || 1) / 3)));
  return `${short(bytes / 1000 ** power)} ${units[power]}`;
};
const length = (seconds) =>
  seconds >= 3600
    ? [short(seconds / 3600), "hours"]
    : seconds >= 60
      ? [short(seconds / 60), "minutes"]
      : [short(seconds), "seconds"];
const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** 256 colours between the stops of the theme. */
function ramp() {
  const stops = colour("mel").split(/\s+/).map(rgb);
  return Array.from({ length: 256 }, (_, level) => {
    const at = (level / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return stops[low].map((from, i) => from + (stops[low + 1][i] - from) * (at - low));
  });
}
