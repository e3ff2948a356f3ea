"""Linter for banned words in docstrings, comments, messages, and Markdown without code.

`.ci/language.py [FILE…]` prints ``file:line: word: use …`` for each match and exits with 1 if there
are any. Without arguments it checks all files in git except itself.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

WORDS = {
    r"mend(s|ed|ing)?": "fix",
    r"zygotes?|nurser(y|ies)|nest": "run launcher, preloaded parent",
    r"told|(?<!= )tells?(?! me)(?!\()": "notify, report, say, distinguish",
    r"who(so)?ever|whomever": "a noun: the process that …, any caller",
    r"brings?|bringing|brought": "reconcile, restore, move",
    r"idle sessions?": "task session",
    r"starvation ladder|the ladder|climbs?|climbed": "escalation policy, escalate",
    r"the lead|led": "leadership, is the leader",
    r"(the|a|its) fence (rises|is|stays|of)|(raises?|carries) (the|a|its) fence": "fencing token",
    r"(the|a|each) lanes?": "destination queue",
    r"figures": "metrics",
    r"keeper('s)? pass(es)?": "service, cycle",
    r"the book": "the ledger",
    r"(the|a|this|that|each|these) rooms?": "package",
    r"doors?": "entry point",
    r"looks? after|looked after": "manage, keep",
    r"puts? off": "delay, postpone",
    r"to be had": "available",
    r"warm way": "preloaded parent",
    r"takes? away|took away|taken away": "remove",
    r"lets? go( of)?": "release",
    r"what became of": "the outcome of, what happened to",
    r"settles?|settled|settling": "finish, record the outcome",
    r"granted nothing|held for started": "a plain sentence",
    r"storms?": "chaos test, burst",
    r"hand(s|ed|ing)? on": "pass on, release",
    r"asked first|what was said before": "check, session",
    r"aftermath|intake|taker": "exit handling, run queue, dispatcher",
    r"wind(s|ing)? (up|down)|wound (up|down)|hurr(y|ies)": "shut down, force the stop",
    r"ladder|sink|whom": "escalation policy, notifier, the process that …",
    r"(?<![\"'{@~/])(?<!Secret to )(no|some|any|every)body(?![\"'}\\])|no one|(?<!/)someone": (
        "no person, a user, any caller"
    ),
}
"""Pattern of a banned word, and its replacement."""

BANNED = re.compile("|".join(rf"(?P<w{i}>\b(?:{word})\b)" for i, word in enumerate(WORDS)), re.I)
SPAN = re.compile(r"`[^`\n]*`|\]\([^)]*\)|https?://\S+")
FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
EXCLUDED = (".ci/language.py", "tests/pure/test_language.py")


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line of prose."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = FENCE.sub(lambda code: "\n" * code[0].count("\n"), text)
        yield from enumerate(text.splitlines(), start=1)
        return
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Constant(value=str(words)) if " " in words:  # also messages and help
                yield from enumerate(words.splitlines(), start=node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def found(path: Path) -> Iterator[str]:
    """Yield a report line for each banned word."""
    replacements = list(WORDS.values())
    for number, line in prose(path):
        for match in BANNED.finditer(SPAN.sub("", line)):
            use = replacements[int(str(match.lastgroup)[1:])]
            yield f"{path}:{number}: {match[0]!r}: use {use}"


def main() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "*.py", "*.md"], capture_output=True, text=True, check=True
    ).stdout.split()
    paths = sys.argv[1:] or [each for each in tracked if not each.startswith(EXCLUDED)]
    lines = [line for path in paths for line in found(Path(path))]
    print("\n".join(lines))
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
