"""`/docs`: one page that shows `/openapi.json`. Nothing is fetched from elsewhere, no foreign script runs."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from functions.http.answers import NO_SNIFFING, Header

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1f}
h1 small{font-weight:400;color:#666}section{border-top:1px solid #ddd;padding:.75rem 0}
code{font:14px ui-monospace,monospace}.method{display:inline-block;min-width:4.5rem;font-weight:700}
.lock{color:#8a4b00}ul{margin:.25rem 0 0}
@media(prefers-color-scheme:dark){
body{background:#141417;color:#e6e6ea}section{border-color:#333}h1 small{color:#999}.lock{color:#e0a060}}
"""

# Text goes in by textContent alone: summaries hold names that handlers' authors chose.
_SCRIPT: Final = """
const make = (tag, text, kind) => {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};
const main = document.querySelector("main");
const operation = (path, method, shown) => {
  const head = make("div");
  head.append(make("code", method.toUpperCase(), "method"), make("code", path));
  if (shown.security) head.append(make("span", " " + shown.description, "lock"));
  const answers = make("ul");
  for (const [status, answer] of Object.entries(shown.responses)) {
    const item = make("li");
    item.append(make("code", status), " " + answer.description);
    answers.append(item);
  }
  const box = make("section");
  box.append(head, make("div", shown.summary), answers);
  return box;
};
const show = (api) => {
  const title = make("h1", api.info.title + " ");
  title.append(make("small", api.info.version));
  main.replaceChildren(title, make("p", api.info.description));
  for (const [path, item] of Object.entries(api.paths))
    for (const [method, shown] of Object.entries(item)) main.append(operation(path, method, shown));
};
fetch("openapi.json").then((answer) => answer.json()).then(show, () => {
  main.textContent = "openapi.json cannot be read";
});
"""

DOCS_PAGE: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    f"<title>Nexus API</title><style>{_STYLE}</style><main>…</main><script>{_SCRIPT}</script></html>"
).encode()


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


_POLICY: Final = (
    f"default-src 'none'; script-src {_digest(_SCRIPT)}; style-src {_digest(_STYLE)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

DOCS_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    NO_SNIFFING,
)
