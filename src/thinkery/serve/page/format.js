// Numbers as people read them.

/** 1234 → "1,234". */
export const count = (number) => number.toLocaleString("en-US");

/** Milliseconds → "0.4 s", "12 s", "2 min 5 s". */
export function duration(ms) {
  const seconds = ms / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** Nano-USD → "$0.0021": two significant digits below a cent, cents above a dollar. */
export function dollars(nano) {
  const usd = nano / 1e9;
  if (usd === 0) return "$0";
  if (usd >= 1) return `$${usd.toFixed(2)}`;
  return `$${usd.toFixed(Math.min(9, Math.max(2, 1 - Math.floor(Math.log10(usd)))))}`;
}
