// TypeScript in two files. Types are taken out when the handler is compiled; they are not checked,
// that is the work of your editor and of `tsc`.
//
//   nexus invoke shout --event '{"text":"hello","times":3}'
import { MARK, loudly } from "./loud.ts";

interface Shout {
  text: string;
  times?: number;
}

export default function (event: Shout): { shouted: string; marks: number } {
  const { text, times = 1 } = event;
  const shouted = loudly(text, times);
  return { shouted, marks: shouted.split(MARK).length - 1 };
}
