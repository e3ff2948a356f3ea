"""Copies of a ledger's rows and of the time, so that one ledger serves every row of a table."""

from __future__ import annotations

from sqlalchemy import RowMapping, Table, exists, literal, select, union_all

from daybook.ledger.feature_tables import all_tables
from tests.world import World


class Copy:
    """The time, and the rows of every table, as they are when the copy is made."""

    def __init__(self, world: World, rows: list[tuple[Table, list[RowMapping]]]) -> None:
        self._world, self._rows, self._now = world, rows, world.clock.now()
        # One query for the tables that have rows is cheaper than a DELETE for each table.
        self._filled = union_all(
            *(
                select(literal(table.name)).where(exists(select(literal(1)).select_from(table)))
                for table, _ in rows
            )
        )

    async def restore(self) -> None:
        """Set the clock back, and replace the rows of every table with those of the copy."""
        async with self._world.ledger.write() as session:
            filled = set((await session.execute(self._filled)).scalars())
            for table, _ in reversed(self._rows):
                if table.name in filled:
                    await session.execute(table.delete())
            for table, rows in self._rows:
                if rows:
                    await session.execute(table.insert(), [dict(row) for row in rows])
        self._world.clock.set(self._now)


async def copy(world: World) -> Copy:
    async with world.ledger.read() as session:
        rows = [
            (table, list((await session.execute(table.select())).mappings()))
            for table in all_tables()
        ]
    return Copy(world, rows)
