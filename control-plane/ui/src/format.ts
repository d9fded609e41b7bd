// Numbers, times and places as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const names = new Intl.DisplayNames(["en"], { type: "region" });

/** 1,234 */
export const number = (value: number) => whole.format(value);
/** 1.2M from a hundred thousand on; exact below. */
export const count = (value: number) => (value < 100_000 ? whole.format(value) : short.format(value));
/** 12.3% */
export function percent(part: number, all: number): string {
  if (all === 0) return "–";
  const share = (100 * part) / all;
  return share > 0 && share < 0.1 ? "<0.1%" : `${share.toFixed(share < 10 ? 1 : 0)}%`;
}
/** +12%, −3%, new */
export function change(now: number, before: number | undefined): string {
  if (before === undefined) return "";
  if (before === 0) return now === 0 ? "" : "new";
  const share = Math.round((100 * (now - before)) / before);
  if (share === 0) return "±0%";
  return share > 999 ? ">+999%" : `${share > 0 ? "+" : "−"}${Math.abs(share)}%`;
}
export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let rest = value;
  while (rest >= 1024 && at < units.length - 1) {
    rest /= 1024;
    at += 1;
  }
  return `${rest.toFixed(at === 0 || rest >= 100 ? 0 : 1)} ${units[at]}`;
}
/** France; the code itself where there is no name. */
export function country(code: string | null | undefined): string {
  if (!code) return "Unknown";
  try {
    return names.of(code) ?? code;
  } catch {
    return code;
  }
}
const two = (value: number) => String(value).padStart(2, "0");
/** 14:03:07 */
export function clock(time: string | number): string {
  const date = new Date(time);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
/** 2026-11-22 14:03:07, in the reader's zone */
export function moment(time: string | number): string {
  const date = new Date(time);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(time)}`;
}
/** 3m, 4h, 5d: how long something lasts, in its largest unit. */
export function duration(seconds: number): string {
  const abs = Math.abs(seconds);
  const steps: [number, string][] = [
    [86_400 * 2, "d"],
    [3_600 * 2, "h"],
    [60, "m"],
    [1, "s"],
  ];
  const sizes: Record<string, number> = { d: 86_400, h: 3_600, m: 60, s: 1 };
  for (const [from, unit] of steps) {
    if (abs >= from) return `${Math.round(abs / (sizes[unit] ?? 1))}${unit}`;
  }
  return "0s";
}
/** 3m ago, in 4h */
export function ago(time: string | null, now: number = Date.now()): string {
  if (!time) return "never";
  const seconds = (now - new Date(time).getTime()) / 1000;
  if (Math.abs(seconds) < 2) return "now";
  return seconds > 0 ? `${duration(seconds)} ago` : `in ${duration(seconds)}`;
}
/** Control characters and what turns text around, made visible: clients write paths. */
export function plain(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: those are the ones to show
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, (sign) => {
    const code = sign.charCodeAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16)}`;
  });
}
