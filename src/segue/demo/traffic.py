"""The storefront's application, running: clients that sign up, browse, fill carts, order, pay and refund.

A process of its own: `python -m segue.demo.traffic --journal FILE`, the URL in the variable STOREFRONT_URL.
SIGTERM ends it between two transactions; SIGUSR1 makes all clients stop after theirs, SIGUSR2 lets them go on.

Without a migration it never fails by itself:
 - Each client writes only its own customers, their carts, orders and wallets; rows that all share (stock, the shop's
   own accounts) are changed at read committed by one atomic statement each, stock first, then accounts, by number.
 - Above read committed a writer fails with 40001 as soon as anyone else, a backfill included, has updated its row or
   a row that its foreign keys point to. Such transactions keep to carts and wallets.
 - It was deployed to live with a migration: it names the columns that it reads and writes, and writes the old shape.

Nothing is retried but a closed fence (SQLSTATE 40001 with constraint `segue_fence`). Every other failure is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg
from psycopg import AsyncConnection, IsolationLevel, sql

from segue.demo.journal import Journal
from segue.demo.work import BANK, REVENUE, Action, Basket, Order, RollBackOnPurpose, Shopper, Work, moment

OPTIONS = "-c timezone=UTC -c datestyle=ISO -c search_path=public"


class Client:
    """One client of the application, with customers of its own."""

    def __init__(
        self, number: int, clients: int, url: str, journal: Journal, *, run: str, seed: int, prepared: bool = True
    ) -> None:
        self._number = number
        self._prepared = prepared
        self._clients = clients
        self._url = url
        self._journal = journal
        self._run = run
        self._chance = random.Random(seed * 1000 + number)  # noqa: S311 - traffic, not secrets
        self._count = 0
        self._shoppers: deque[Shopper] = deque(maxlen=300)
        self._variants: list[tuple[int, int, int]] = []  # variant, inventory, price
        self._connection: AsyncConnection | None = None
        #: Where a writing transaction leaves its name.
        self._requests = "requests"
        self._kinds: list[tuple[Action, int, IsolationLevel]] = [
            (self._browse, 22, IsolationLevel.READ_COMMITTED),
            (self._fill_cart, 20, IsolationLevel.REPEATABLE_READ),
            (self._order, 18, IsolationLevel.READ_COMMITTED),
            (self._pay, 14, IsolationLevel.READ_COMMITTED),
            (self._ship, 5, IsolationLevel.READ_COMMITTED),
            (self._refund, 4, IsolationLevel.READ_COMMITTED),
            (self._sign_up, 6, IsolationLevel.READ_COMMITTED),
            (self._profile, 6, IsolationLevel.READ_COMMITTED),
            (self._statement, 2, IsolationLevel.REPEATABLE_READ),
            (self._wish, 2, IsolationLevel.READ_COMMITTED),
            (self._review, 1, IsolationLevel.READ_COMMITTED),
        ]

    async def prepare(self) -> None:
        """Connect and get to know the client's own customers and the catalogue."""
        connection = await self._connected()
        work = Work(connection, "prepare")
        rows = await work.all(
            "SELECT c.id, a.id, w.id, w.balance_cents, k.id, c.first_name, c.last_name, c.phone, c.email"
            " FROM customers c JOIN addresses a ON a.customer_id = c.id JOIN accounts w ON w.customer_id = c.id"
            " JOIN carts k ON k.customer_id = c.id"
            " WHERE w.kind = 'wallet' AND w.id %% %s = %s ORDER BY c.id LIMIT 120",
            (self._clients, self._number),
        )
        for customer, address, wallet, balance, cart, first, last, phone, email in rows:
            row = {"first_name": first, "last_name": last, "phone": phone, "email": email}
            shopper = Shopper(customer, address, wallet, balance, cart, row)
            shopper.items = {
                item: (variant, quantity)
                for item, variant, quantity in await work.all(
                    "SELECT id, variant_id, quantity FROM cart_items WHERE cart_id = %s", (cart,)
                )
            }
            self._shoppers.append(shopper)
        self._variants = await work.all(
            "SELECT v.id, i.id, p.price_cents FROM product_variants v JOIN inventory i ON i.variant_id = v.id"
            " JOIN products p ON p.id = v.product_id ORDER BY v.id LIMIT 500"
        )
        await connection.commit()

    async def step(self, due: float) -> None:
        """Do one transaction that was due at this moment, and journal it."""
        action, _, isolation = self._chance.choices(self._kinds, weights=[kind[1] for kind in self._kinds])[0]
        await self._attempt(action.__name__.strip("_"), action, isolation, due)

    async def _attempt(self, kind: str, action: Action, isolation: IsolationLevel, due: float) -> bool:
        """Do one transaction, again while a fence is closed; return whether it was acknowledged."""
        refused: float | None = None
        while True:
            self._count += 1
            reference = f"{self._run}-{self._number}-{self._count}"
            try:
                return await self._once(kind, action, isolation, reference, due, refused)
            except psycopg.errors.SerializationFailure as error:
                if error.diag.constraint_name != "segue_fence":
                    await self._failed(kind, error)
                    return False
                refused = refused or time.time()
                self._journal.mark(fenced=kind)
                await self._roll_back()
                await self._turned_away()
            except psycopg.errors.FeatureNotSupported as error:
                # What the server prepared for this connection has another row type now: it fails once.
                if "cached plan" not in str(error):
                    await self._failed(kind, error)
                    return False
                self._journal.mark(row_type=kind)
                await self._roll_back()
                return False
            except (psycopg.Error, OSError) as error:
                await self._failed(kind, error)
                return False

    async def _turned_away(self) -> None:
        """Wait a moment before a fence is tried again."""
        await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()

    async def _once(
        self,
        kind: str,
        action: Action,
        isolation: IsolationLevel,
        reference: str,
        due: float,
        refused: float | None,
    ) -> bool:
        """Do one transaction and journal it; `refused` is when a fence turned it away first."""
        connection = await self._connected()
        await connection.set_isolation_level(isolation)
        work = Work(connection, reference)
        try:
            remember = await action(work)
            if work.changes:
                await work.insert(self._requests, "key", key=reference, at=moment())
        except RollBackOnPurpose:
            await connection.rollback()
            self._journal.write(c=self._number, k=kind, t=round(due, 4), l=_since(due), r=1)
            return False
        try:
            await connection.commit()
        except psycopg.OperationalError as error:
            if not connection.broken or not work.changes:
                raise
            # The answer to COMMIT was lost. Whether it took place is looked up, never guessed.
            if not await self._was_committed(reference):
                raise
            self._journal.mark(doubt=kind, text=str(error))
        if remember is not None:
            remember()
        waited = {} if refused is None else {"f": _since(refused)}
        self._journal.write(c=self._number, k=kind, t=round(due, 4), l=_since(due), w=work.changes, **waited)
        for text in work.wrong:
            self._journal.mark(wrong=text)
        return True

    async def _was_committed(self, reference: str) -> bool:
        for _ in range(600):
            try:
                connection = await self._connected()
                # The lost back-end may still be at it. An insert of the same key waits for it, where a query would not.
                statement = sql.SQL("INSERT INTO {} (key, at) VALUES (%s, %s) ON CONFLICT DO NOTHING")
                cursor = await connection.execute(
                    statement.format(sql.Identifier(self._requests)), (reference, moment())
                )
                await connection.rollback()
            except (psycopg.Error, OSError):
                await asyncio.sleep(0.1)
            else:
                return cursor.rowcount == 0
        return False

    async def _failed(self, kind: str, error: Exception) -> None:
        state = getattr(error, "sqlstate", None)
        text = " ".join(str(error).split())
        self._journal.mark(error=f"{kind}: {type(error).__name__}{f' {state}' if state else ''}: {text}")
        await self._roll_back()
        await asyncio.sleep(0.05)

    async def _roll_back(self) -> None:
        if self._connection is not None:
            try:
                await self._connection.rollback()
            except psycopg.Error:
                await self._connection.close()

    async def _connected(self) -> AsyncConnection:
        if self._connection is None or self._connection.closed:
            self._connection = await AsyncConnection.connect(
                self._url,
                application_name="storefront",
                options=OPTIONS,
                connect_timeout=10,
                prepare_threshold=5 if self._prepared else None,
            )
        return self._connection

    def _shopper(self) -> Shopper:
        return self._chance.choice(self._shoppers)

    # What customers do. Each returns what to remember once the database has acknowledged it.

    async def _browse(self, work: Work) -> Callable[[], None] | None:
        category = self._chance.randrange(1, 41)
        await work.all(
            "SELECT id, name, gross_cents, brand FROM product_listing WHERE category_id = %s ORDER BY id LIMIT 20",
            (category,),
        )
        shopper = self._shopper()
        await work.all(
            "SELECT id, status, total_cents, lines FROM order_summary WHERE customer_id = %s ORDER BY id DESC LIMIT 5",
            (shopper.id,),
        )
        if self._chance.random() < 0.5:
            await work.insert(
                "analytics_events",
                reference=work.name(),
                occurred_at=moment(),
                name="view",
                properties={"category": category},
            )
        return None

    async def _fill_cart(self, work: Work) -> Callable[[], None] | None:
        shopper = self._shopper()
        items = dict(shopper.items)
        seen = {
            item: (variant, quantity)
            for item, variant, quantity in await work.all(
                "SELECT id, variant_id, quantity FROM cart_items WHERE cart_id = %s", (shopper.cart,)
            )
        }
        if seen != items:
            work.wrong.append(f"cart {shopper.cart} reads {seen}, acknowledged were {items}")
            items = seen
        for _ in range(self._chance.randrange(1, 4)):
            variant, _, _ = self._chance.choice(self._variants)
            item = await work.insert(
                "cart_items", reference=work.name(), cart_id=shopper.cart, variant_id=variant, quantity=1
            )
            items[item] = (variant, 1)
        if len(items) > 3:
            # Tried, looked at, and taken back; the rest of the transaction stands.
            await work.savepoint("clear_out")
            changes = len(work.changes)
            for item in list(items)[:2]:
                await work.delete("cart_items", item)
            if self._chance.random() < 0.3:
                await work.back_to("clear_out", changes)
            else:
                for item in list(items)[:2]:
                    del items[item]
        else:
            item = self._chance.choice(list(items))
            quantity = self._chance.randrange(1, 4)
            await work.update("cart_items", item, quantity=quantity)
            items[item] = (items[item][0], quantity)
        if self._chance.random() < 0.05:
            raise RollBackOnPurpose

        def remember() -> None:
            shopper.items = items

        return remember

    async def _order(self, work: Work) -> Callable[[], None] | None:
        shopper = self._shopper()
        basket = self._basket(shopper)
        order = await self._place(work, shopper, basket)
        await self._reserve(work, basket)
        if self._chance.random() < 0.03:
            raise RollBackOnPurpose
        return lambda: self._placed(shopper, basket, order)

    def _basket(self, shopper: Shopper) -> Basket:
        """Choose what to order: of the cart, or something else where that is empty."""
        chosen = list(shopper.items.items())[:3]
        prices = {variant: (inventory, price) for variant, inventory, price in self._variants}
        lines = [(variant, quantity, prices[variant][1]) for _, (variant, quantity) in chosen if variant in prices]
        if not lines:
            variant, _, price = self._chance.choice(self._variants)
            lines = [(variant, 1, price)]
        return Basket(
            items=[item for item, _ in chosen],
            lines=lines,
            notes=f"ring {self._chance.randrange(100)} times" if self._chance.random() < 0.3 else None,
            stock=sorted((prices[variant][0], quantity) for variant, quantity, _ in lines),
        )

    async def _place(self, work: Work, shopper: Shopper, basket: Basket) -> int:
        """Write an order, and take its lines from the cart."""
        at = moment()
        order = await work.insert(
            "orders",
            reference=work.name(),
            customer_id=shopper.id,
            shipping_address_id=shopper.address,
            coupon_code=None,
            status="pending",
            total_cents=basket.total,
            currency="EUR",
            notes=basket.notes,
            placed_at=at,
            updated_at=at,
        )
        for variant, quantity, price in basket.lines:
            await work.insert(
                "order_items",
                reference=work.name(),
                order_id=order,
                variant_id=variant,
                quantity=quantity,
                unit_cents=price,
            )
        for item in basket.items:
            await work.delete("cart_items", item)
        await work.update("carts", shopper.cart, status="open", updated_at=at)
        return int(order)

    async def _reserve(self, work: Work, basket: Basket) -> None:
        """Take what is ordered from the stock; raises RollBackOnPurpose when it is sold out."""
        for inventory, quantity in basket.stock:
            if not await work.add("inventory", inventory, -quantity, column="on_hand"):
                raise RollBackOnPurpose

    def _placed(self, shopper: Shopper, basket: Basket, order: int) -> None:
        for item in basket.items:
            del shopper.items[item]
        shopper.waiting.append(Order(order, basket.total, "pending", basket.notes, basket.stock))

    async def _pay(self, work: Work) -> Callable[[], None] | None:
        shopper = self._holder("waiting")
        if shopper is None:
            return await self._order(work)
        order = shopper.waiting[0]
        await self._read_order(work, order)
        await self._read_wallet(work, shopper)
        if shopper.balance < order.total:
            return await self._deposit(work, shopper)
        await self._mark_paid(work, shopper, order)
        paid = await self._charge(work, shopper, order)

        def remember() -> None:
            paid()
            self._paid(shopper, order)

        return remember

    async def _mark_paid(self, work: Work, shopper: Shopper, order: Order) -> None:
        await work.update("orders", order.id, status="paid", notes=order.notes, updated_at=moment())
        await work.add("loyalty_accounts", shopper.id, order.total // 1000, column="points", key_column="customer_id")

    def _paid(self, shopper: Shopper, order: Order) -> None:
        shopper.waiting.remove(order)
        order.status = "paid"
        shopper.paid.append(order)

    async def _charge(self, work: Work, shopper: Shopper, order: Order) -> Callable[[], None]:
        """Take an order's money from the wallet."""
        payment = await work.insert(
            "payments",
            reference=work.name(),
            order_id=order.id,
            method="wallet",
            status="captured",
            amount_cents=order.total,
            paid_at=moment(),
        )
        revenue = self._chance.choice(REVENUE)
        await work.book("sale", (shopper.wallet, -order.total), (revenue, order.total))

        def remember() -> None:
            order.payment, order.revenue = payment, revenue
            shopper.balance -= order.total

        return remember

    async def _ship(self, work: Work) -> Callable[[], None] | None:
        shopper = self._holder("paid")
        if shopper is None:
            return await self._browse(work)
        return await self._send(work, shopper, shopper.paid[0])

    async def _send(self, work: Work, shopper: Shopper, order: Order) -> Callable[[], None]:
        await self._read_order(work, order)
        notes = order.notes if self._chance.random() < 0.5 else f"left with neighbour {self._chance.randrange(50)}"
        at = moment()
        await work.update("orders", order.id, status="shipped", notes=notes, updated_at=at)
        await work.insert("shipments", reference=work.name(), order_id=order.id, method_id=1, status="sent", sent_at=at)

        def remember() -> None:
            shopper.paid.popleft()

        return remember

    async def _refund(self, work: Work) -> Callable[[], None] | None:
        shopper = self._holder("paid")
        if shopper is None:
            return await self._browse(work)
        order = shopper.paid[0]
        await self._read_order(work, order)
        await self._read_wallet(work, shopper)
        await self._mark_refunded(work, order)
        await self._restock(work, order.lines)
        returned = await self._pay_back(work, shopper, order)

        def remember() -> None:
            shopper.paid.popleft()
            returned()

        return remember

    async def _mark_refunded(self, work: Work, order: Order) -> None:
        await work.update("orders", order.id, status="refunded", notes=order.notes, updated_at=moment())

    async def _restock(self, work: Work, lines: Sequence[tuple[int, int]]) -> None:
        for inventory, quantity in lines:
            await work.add("inventory", inventory, quantity, column="on_hand")

    async def _pay_back(self, work: Work, shopper: Shopper, order: Order) -> Callable[[], None]:
        await work.insert(
            "refunds",
            reference=work.name(),
            payment_id=order.payment,
            amount_cents=order.total,
            reason="changed-mind",
            refunded_at=moment(),
        )
        await work.book("refund", (shopper.wallet, order.total), (order.revenue, -order.total))

        def remember() -> None:
            shopper.balance += order.total

        return remember

    async def _deposit(self, work: Work, shopper: Shopper) -> Callable[[], None]:
        await work.book("deposit", (shopper.wallet, 200_000), (BANK, -200_000))

        def remember() -> None:
            shopper.balance += 200_000

        return remember

    async def _sign_up(self, work: Work) -> Callable[[], None] | None:
        shopper = await self._register(work)
        await self._open_wallet(work, shopper)
        if self._chance.random() < 0.05:
            raise RollBackOnPurpose
        return lambda: self._shoppers.append(shopper)

    async def _register(self, work: Work) -> Shopper:
        """Write a new customer, without a wallet yet."""
        at = moment()
        first, last = self._chance.choice(_FIRST), self._chance.choice(_LAST)
        row = {"first_name": first, "last_name": last, "phone": None, "email": f"{work.reference}@example.org"}
        customer = await work.insert("customers", **row, status="active", tier_id=1, created_at=at, updated_at=at)
        address = await work.insert(
            "addresses",
            customer_id=customer,
            label="home",
            street=f"Gracht {self._chance.randrange(400)}",
            city="Utrecht",
            postcode="3511",
            country="NL",
        )
        await work.insert(
            "customer_preferences",
            "customer_id",
            customer_id=customer,
            settings={"newsletter": False},
            languages="{en}",
        )
        await work.insert("loyalty_accounts", "customer_id", customer_id=customer, points=0)
        cart = await work.insert("carts", reference=work.name(), customer_id=customer, status="open", updated_at=at)
        return Shopper(customer, address, 0, 300_000, cart, row)

    async def _open_wallet(self, work: Work, shopper: Shopper) -> None:
        shopper.wallet = await work.insert("accounts", kind="wallet", customer_id=shopper.id, balance_cents=0)
        await work.book("first deposit", (shopper.wallet, shopper.balance), (BANK, -shopper.balance))

    async def _profile(self, work: Work) -> Callable[[], None] | None:
        shopper = self._shopper()
        seen = await work.one("SELECT first_name, last_name, phone, email FROM customers WHERE id = %s", (shopper.id,))
        if seen is None or dict(zip(("first_name", "last_name", "phone", "email"), seen, strict=True)) != shopper.row:
            work.wrong.append(f"customer {shopper.id} reads {seen}, acknowledged was {shopper.row}")
        row = dict(shopper.row)
        if self._chance.random() < 0.5:
            row["last_name"] = self._chance.choice(_LAST)
        row["phone"] = f"+316{self._chance.randrange(10**8):08d}"
        await work.update(
            "customers",
            shopper.id,
            first_name=row["first_name"],
            last_name=row["last_name"],
            phone=row["phone"],
            updated_at=moment(),
        )
        await work.update(
            "customer_preferences",
            shopper.id,
            "customer_id",
            settings={"newsletter": self._chance.random() < 0.5, "theme": "dark"},
        )

        def remember() -> None:
            shopper.row = row

        return remember

    async def _statement(self, work: Work) -> Callable[[], None] | None:
        """Read the same numbers twice in one snapshot."""
        shopper = self._shopper()
        question = "SELECT balance_cents FROM accounts WHERE id = %s"
        first = await work.one(question, (shopper.wallet,))
        entries = await work.one(
            "SELECT coalesce(sum(amount_cents), 0)::bigint FROM accounting_entries WHERE account_id = %s",
            (shopper.wallet,),
        )
        if first != (shopper.balance,) or entries != first:
            work.wrong.append(f"wallet {shopper.wallet} reads {first} and {entries}, acknowledged {shopper.balance}")
        return None

    async def _wish(self, work: Work) -> Callable[[], None] | None:
        shopper = self._shopper()
        await work.one("SELECT set_config('storefront.customer_id', %s, true)", (str(shopper.id),))
        foreign = await work.one("SELECT count(*) FROM wishlist_items WHERE customer_id <> %s", (shopper.id,))
        if foreign != (0,):
            work.wrong.append(f"customer {shopper.id} sees wishes of others")
        await work.insert(
            "wishlist_items",
            reference=work.name(),
            customer_id=shopper.id,
            product_id=self._chance.randrange(1, 200),
            wish="in blue",
            added_at=moment(),
        )
        return None

    async def _review(self, work: Work) -> Callable[[], None] | None:
        shopper = self._shopper()
        await work.insert(
            "reviews",
            reference=work.name(),
            product_id=self._chance.randrange(1, 200),
            customer_id=shopper.id,
            stars=self._chance.randrange(1, 6),
            body="as described",
            written_at=moment(),
        )
        if self._chance.random() < 0.3:
            raise RollBackOnPurpose
        return None

    def _holder(self, of: str) -> Shopper | None:
        holders = [shopper for shopper in self._shoppers if getattr(shopper, of)]
        return self._chance.choice(holders) if holders else None

    async def _read_order(self, work: Work, order: Order) -> None:
        """Lock the client's own order, and see that it is what the client was told."""
        seen = await work.one(
            "SELECT status::text, total_cents, notes FROM orders WHERE id = %s FOR UPDATE", (order.id,)
        )
        if seen != (order.status, order.total, order.notes):
            work.wrong.append(f"order {order.id} reads {seen}, acknowledged {order.status, order.total, order.notes}")

    async def _read_wallet(self, work: Work, shopper: Shopper) -> None:
        """Lock the client's own wallet, and see that it is what the client was told."""
        seen = await work.one("SELECT balance_cents FROM accounts WHERE id = %s FOR UPDATE", (shopper.wallet,))
        if seen != (shopper.balance,):
            work.wrong.append(f"wallet {shopper.wallet} reads {seen}, acknowledged {shopper.balance}")


async def drive(crew: list[Client], journal: Journal, *, rate: float, run: str) -> None:
    """Run the clients at this many transactions a second in all, until SIGTERM, SIGINT or the parent's end."""
    clients = len(crew)
    parent = os.getppid()
    going, stop = asyncio.Event(), asyncio.Event()
    going.set()
    idle = [0]
    loop = asyncio.get_running_loop()

    def end() -> None:
        stop.set()
        going.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, end)
    loop.add_signal_handler(signal.SIGUSR1, going.clear)
    loop.add_signal_handler(signal.SIGUSR2, going.set)
    await asyncio.gather(*(client.prepare() for client in crew))
    journal.mark(start={"clients": clients, "rate": rate, "run": run, "pid": os.getpid()})

    async def work(client: Client, due: float) -> None:
        while not stop.is_set():
            if not going.is_set():
                idle[0] += 1
                if idle[0] == clients:
                    journal.mark(paused=True)
                await going.wait()
                idle[0] -= 1
                if idle[0] == clients - 1 and not stop.is_set():
                    journal.mark(resumed=True)
                # Each in its own turn again: all at once, they would mostly wait for each other.
                due = time.time() + crew.index(client) / rate
                continue
            wait = due - time.time()
            if wait > 0:
                await asyncio.sleep(wait)
            await client.step(due)
            # Latency counts from when a transaction was due, so that a stall shows in all that had to wait for it.
            due += clients / rate

    async def watch() -> None:
        # A demo that was killed cannot stop its traffic.
        while not stop.is_set():
            if os.getppid() != parent:
                end()
            await asyncio.sleep(0.2)

    begin = time.time()
    await asyncio.gather(watch(), *(work(client, begin + at / rate) for at, client in enumerate(crew)))
    for client in crew:
        await client.close()
    journal.mark(end=True)


def _since(due: float) -> float:
    return round((time.time() - due) * 1000, 2)


_FIRST = ("Ada", "Ben", "Chloé", "Dmitri", "Emma", "Femke", "Goran", "Hana", "O'Neil", "Zoë")
_LAST = ("Jansen", "Okafor", "Müller", "Silva", "Novak", "Tanaka", "van der Berg", "D'Arcy")


def main() -> None:
    """Read the arguments and run until stopped."""
    parser = argparse.ArgumentParser(prog="python -m segue.demo.traffic", description=__doc__.splitlines()[0])
    parser.add_argument("--journal", type=Path, required=True, help="file to append the acknowledged changes to")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--rate", type=float, default=150.0, help="transactions a second, all clients together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--unprepared", action="store_true", help="let the server prepare no statements (the driver does by default)"
    )
    arguments = parser.parse_args()
    url = os.environ["STOREFRONT_URL"]
    journal = Journal(arguments.journal)
    run = f"{int(time.time()):x}"
    clients, seed, prepared = arguments.clients, arguments.seed, not arguments.unprepared
    crew = [Client(number, clients, url, journal, run=run, seed=seed, prepared=prepared) for number in range(clients)]
    try:
        asyncio.run(drive(crew, journal, rate=arguments.rate, run=run))
    finally:
        journal.close()


if __name__ == "__main__":
    main()
