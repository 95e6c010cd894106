// A handler may import the other files of its folder, and nothing else: what it needs it brings along.
export const MARK = "!";

export function loudly(text: string, times: number): string {
  return text.toUpperCase() + MARK.repeat(times);
}
