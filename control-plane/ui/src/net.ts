// Addresses and networks as numbers, to say which covers which.

interface Net {
  isV4: boolean;
  bits: bigint;
  length: number;
}

function v4(text: string): bigint | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  let bits = 0n;
  for (const part of parts) {
    const byte = Number(part);
    if (!/^\d{1,3}$/.test(part) || byte > 255) return undefined;
    bits = (bits << 8n) | BigInt(byte);
  }
  return bits;
}

function v6(text: string): bigint | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const words = (half: string | undefined) => (half ? half.split(":") : []);
  const [head, tail] = [words(halves[0]), words(halves[1])];
  const missing = 8 - head.length - tail.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  const all = [...head, ...new Array<string>(halves.length === 2 ? missing : 0).fill("0"), ...tail];
  let bits = 0n;
  for (const word of all) {
    if (!/^[0-9a-f]{1,4}$/i.test(word)) return undefined;
    bits = (bits << 16n) | BigInt(Number.parseInt(word, 16));
  }
  return bits;
}

/** An address or CIDR; undefined for anything else. */
export function parseNet(text: string): Net | undefined {
  const [address = "", length] = text.split("/");
  const isV4 = !address.includes(":");
  const bits = isV4 ? v4(address) : v6(address);
  const most = isV4 ? 32 : 128;
  const found = length === undefined ? most : Number(length);
  if (bits === undefined || !Number.isInteger(found) || found < 0 || found > most) return undefined;
  return { isV4, bits, length: found };
}

/** Whether every address of `inner` is in `outer`. */
export function covers(outer: string, inner: string): boolean {
  const [out, into] = [parseNet(outer), parseNet(inner)];
  if (!out || !into || out.isV4 !== into.isV4 || out.length > into.length) return false;
  const rest = BigInt((out.isV4 ? 32 : 128) - out.length);
  return out.bits >> rest === into.bits >> rest;
}
