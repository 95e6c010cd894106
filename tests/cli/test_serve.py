"""`nexus serve` as a process; what it serves is tested in tests/http."""

from tests.cli.command import Command
from tests.cli.server import Server


def test_it_serves_what_the_options_say(nexus: Command) -> None:
    """The handlers folder and port of the options are served, and SIGTERM ends it with 0."""
    nexus.write("mine/hello.js", "return { greeting: 'hello ' + event.who };")
    with Server(nexus, "serve", "--handlers-dir", "mine", "--log-format", "text") as server:
        assert server.call("hello", '{"who":"bob"}') == b'{"greeting":"hello bob"}'
        assert server.stop() == 0
    assert "serving: address=127.0.0.1" in server.output


def test_an_address_it_may_not_have_stops_it(nexus: Command) -> None:
    """A host that others reach, without tokens, exits with 2 and says why."""
    done = nexus("serve", "--host", "0.0.0.0")
    assert done.code == 2
    assert "set NEXUS_JWT_SECRET" in done.err
