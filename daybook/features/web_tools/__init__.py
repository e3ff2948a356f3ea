"""Tools with which a model reads the web: `web.fetch` and `web.search`. They only read.

To add a search engine, add a row to `search.ENGINES`, and a line to its table in
`docs/guides/agent-tools.md`.
"""

from daybook.feature import Feature

FEATURE = Feature(
    package=__name__,
    sources="sources:read_by",
    agent_tools=(("web", "tools:web_tools"),),
    first_tools=("web",),
    spec_tools=(("WebFetch", "web.fetch"), ("WebSearch", "web.search")),
    settings="settings:WebSettings",
)
