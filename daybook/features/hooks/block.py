"""The Prefect block of a hook."""

from __future__ import annotations

from prefect.blocks.core import Block

from daybook.features.hooks import documents
from daybook.features.hooks.settings import HookSettings


class HookBlock(HookSettings, Block):
    """Signed requests that start a job: the job's id, the secret, and which requests start it."""

    _block_type_name = documents.STORE.title
    _block_type_slug = documents.STORE.slug
    _code_example = """```python
from blocks import HookBlock

await HookBlock(job="id of the job", secret="whsec_…").asave("BLOCK_NAME")
```"""

    def get_hook(self) -> documents.Hook:
        """Return the hook; raise `InvalidInput` if its settings are invalid."""
        return documents.build(*documents.STORE.read_block(self))
