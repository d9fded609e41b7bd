// Numbers, times and places as people read them.

import { signal } from "@preact/signals";

const KEPT = "ipwarden.utc";
const kept = () => {
  try {
    return localStorage.getItem(KEPT) === "true";
  } catch {
    return false;
  }
};
/** Whether times are shown in UTC, as most logs are, rather than in the reader's zone. */
export const utc = signal(kept());
export function showUtc(on: boolean): void {
  utc.value = on;
  try {
    localStorage.setItem(KEPT, String(on));
  } catch {
    // Without a store it holds until the page is closed.
  }
}
/** UTC, or the reader's zone by name. */
export const zone = () => (utc.value ? "UTC" : Intl.DateTimeFormat().resolvedOptions().timeZone || "local time");

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
/** The time as a date whose UTC parts are those of the zone that is shown. */
export function shown(time: string | number): Date {
  const date = new Date(time);
  return utc.value ? date : new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
}
/** The inverse of [`shown`]: a wall clock's time without a zone, as an input gives it. */
export const unshown = (text: string) => new Date(utc.value ? `${text}Z` : text);
/** 14:03:07 */
export function clock(time: string | number): string {
  const date = shown(time);
  return `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}:${two(date.getUTCSeconds())}`;
}
/** 2026-11-22 14:03:07 */
export function moment(time: string | number): string {
  const date = shown(time);
  return `${date.getUTCFullYear()}-${two(date.getUTCMonth() + 1)}-${two(date.getUTCDate())} ${clock(time)}`;
}
/** 22 Nov */
export const day = (time: string | number) =>
  shown(time).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
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
let ahead = 0;
/** Learns the service's clock from an answer: times in data are by that one, not by the reader's. */
export function learnClock(date: string | null): void {
  const theirs = Date.parse(date ?? "");
  // Answers say their time to the second, and take a moment.
  if (!Number.isNaN(theirs)) ahead = Math.abs(theirs - Date.now()) < 5_000 ? 0 : theirs - Date.now();
}
/** Now, by the service's clock. */
export const present = () => Date.now() + ahead;
/** 3m ago, in 4h */
export function ago(time: string | null, now: number = present()): string {
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
