// Numbers for people: three digits, with a unit.

function digits(value) {
  if (value >= 100 || value === 0) return String(Math.round(value));
  if (value >= 10) return value.toFixed(value >= 99.95 ? 0 : 1).replace(/\.0$/, "");
  return value.toFixed(1);
}

export function count(value) {
  if (value < 1e4) return value % 1 ? digits(value) : value.toLocaleString("en");
  if (value < 1e6) return `${digits(value / 1e3)}k`;
  return `${digits(value / 1e6)}M`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let left = value;
  while (left >= 1000 && unit < units.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${unit ? digits(left) : Math.round(left)} ${units[unit]}`;
}

export const byteRate = (value) => `${bytes(value)}/s`;
export const rate = (value) => `${count(value)}/s`;

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${value.toFixed(2)} ms`;
  if (value < 1000) return `${digits(value)} ms`;
  return `${digits(value / 1000)} s`;
}

export function ago(seconds) {
  if (seconds < 2) return "now";
  return `${span(seconds)} ago`;
}

export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

export const clock = (date) =>
  date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export function joined(host, port) {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

export const plural = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;
