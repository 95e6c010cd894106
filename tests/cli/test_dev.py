"""`nexus dev`: reloading without dropping a call, and what it shows."""

import threading

from tests.cli.command import Command
from tests.cli.server import Server

SLOW = """
export default function (event) {
  const end = Date.now() + event.ms;
  while (Date.now() < end);
  return "old";
}
"""


def test_a_change_is_loaded_and_calls_under_way_end(nexus: Command) -> None:
    """A changed handler answers the next call anew, while a call that runs ends with its old code."""
    file = nexus.write("handlers/slow.js", SLOW)
    answers = []
    with Server(nexus, "dev") as server:
        running = threading.Thread(target=lambda: answers.append(server.call("slow", '{"ms": 2000}')))
        running.start()
        server.wait_until(lambda: server.health()["pool"]["running"] == 1)
        file.write_text("return 'new';")
        server.wait_for("slow loaded in", times=2)
        next_answer = server.call("slow")
        running.join()
    assert (answers, next_answer) == ([b'"old"'], b'"new"')


def test_calls_and_changes_are_shown(nexus: Command) -> None:
    """Each call shows its event, effects and value; each change what became of it, with an error's place."""
    file = nexus.write("handlers/one.js", "console.log('here'); return { n: event.n };")
    with Server(nexus, "dev") as server:
        server.wait_for("one loaded in")
        server.call("one", '{"n":\n 7}')
        server.wait_for('{"n":7}\n')
        assert 'one {"n":7} success' in server.output
        assert "info  here" in server.output
        file.write_text("export default {")
        server.wait_for("one not loaded")
        server.wait_for(" --> one.js:1:")
        file.unlink()
        server.wait_for("one removed")
        assert server.stop() == 0


def test_it_needs_a_folder_to_watch(nexus: Command) -> None:
    """Without a handlers folder it exits with 2."""
    done = nexus("dev", "--handlers-dir", "missing")
    assert (done.code, "there is no folder missing" in done.err) == (2, True)
