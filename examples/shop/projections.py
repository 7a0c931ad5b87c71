"""The shop's tables, for its front: what is for sale, and where each order is."""

import sqlalchemy as sa

from examples.shop.stock import Reserved, Restocked, Returned, Shipped
from repertory.projections import At, Db, Projection, project, table, upsert


class Items(Projection):
    """Each item with its price, in cents, and how many are on the shelf."""

    rows = table(
        sa.Column("item", sa.String(255), primary_key=True),
        sa.Column("price", sa.BigInteger, nullable=False),
        sa.Column("shelf", sa.BigInteger, nullable=False),
    )
    stock = upsert(rows, by="item", set="price", add="shelf")
    count = upsert(rows, by="item", add="shelf")

    @project
    def restocked(self, evt: Restocked, at: At, db: Db) -> None:
        db.later(self.stock, item=at.key, price=evt.price, shelf=evt.count)

    @project
    def reserved(self, evt: Reserved, at: At, db: Db) -> None:
        db.later(self.count, item=at.key, price=0, shelf=-evt.count)

    @project
    def returned(self, evt: Returned, at: At, db: Db) -> None:
        db.later(self.count, item=at.key, price=0, shelf=evt.count)


class Orders(Projection):
    """Each order that has had items set aside for it: ``stage`` is reserved, returned or shipped."""

    rows = table(
        sa.Column("number", sa.String(255), primary_key=True),
        sa.Column("item", sa.String(255), nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("cents", sa.BigInteger, nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
    )
    put = upsert(rows, by="number", set=["item", "count", "cents", "stage"])
    move = upsert(rows, by="number", set="stage")

    @project
    def reserved(self, evt: Reserved, at: At, db: Db) -> None:
        db.later(self.put, number=evt.order, item=at.key, count=evt.count, cents=evt.cents, stage="reserved")

    @project
    def returned(self, evt: Returned, at: At, db: Db) -> None:
        db.later(self.move, number=evt.order, item=at.key, count=evt.count, cents=0, stage="returned")

    @project
    def shipped(self, evt: Shipped, at: At, db: Db) -> None:
        db.later(self.move, number=evt.order, item=at.key, count=evt.count, cents=0, stage="shipped")
