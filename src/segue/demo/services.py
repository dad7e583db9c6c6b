"""The storefront's application, cut into services: customer, catalogue, payment and analytics.

A process of its own: `python -m segue.demo.services --journal FILE`, in the variable STOREFRONT_URLS a JSON object of
URLs by database. It is the same shop as `segue.demo.traffic`; what that does in one transaction, this does in one for
each service, one after the other, and takes back what it has begun when a service says no.

Each service has tables of its own and a connection of its own, to the database that the table `service_routing` of the
monolith names. A service that finds its tables closed (`segue_fence`) reads the routing anew and tries again. What the
analytics service is to know of the others' transactions is published by them, in the same transaction.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection, IsolationLevel

from segue.demo.journal import Journal
from segue.demo.traffic import OPTIONS, Client, drive
from segue.demo.work import Action, Basket, Order, RollBackOnPurpose, Shopper, Work, moment

#: The services, and the database in which all of them begin.
SERVICES = ("customer", "catalogue", "payment", "analytics")
MONOLITH = "monolith"


class Routing:
    """Which database each service is in, as one table says; shared by all clients of a process."""

    def __init__(self, urls: dict[str, str]) -> None:
        self.urls = urls
        self.places = dict.fromkeys(SERVICES, MONOLITH)
        self._connection: AsyncConnection | None = None
        self._looking = asyncio.Lock()

    async def look(self) -> None:
        """Read the table."""
        async with self._looking:
            if self._connection is None or self._connection.closed:
                self._connection = await AsyncConnection.connect(
                    self.urls[MONOLITH], autocommit=True, application_name="storefront routing", options=OPTIONS
                )
            cursor = await self._connection.execute("SELECT service, database FROM service_routing")
            self.places = {str(service): str(database) for service, database in await cursor.fetchall()}

    async def close(self) -> None:
        """Close its connection."""
        if self._connection is not None:
            await self._connection.close()


class ServiceClient(Client):
    """One client of all services, with customers of its own."""

    def __init__(self, number: int, clients: int, routing: Routing, journal: Journal, *, run: str, seed: int) -> None:
        super().__init__(number, clients, routing.urls[MONOLITH], journal, run=run, seed=seed)
        self._routing = routing
        self._service = SERVICES[0]
        self._connections: dict[str, AsyncConnection] = {}
        self._sagas: list[tuple[Callable[[float], Awaitable[object]], int]] = [
            (self._browsing, 16),
            (self._filling, 20),
            (self._ordering, 16),
            (self._paying, 14),
            (self._shipping, 5),
            (self._refunding, 4),
            (self._signing_up, 5),
            (self._changing, 6),
            (self._accounting, 2),
            (self._wishing, 2),
            (self._reviewing, 1),
        ]

    async def prepare(self) -> None:
        """Get to know the client's own customers and the catalogue, while all of it is in one database."""
        await super().prepare()
        await self._routing.look()

    async def step(self, due: float) -> None:
        """Do what a customer does, with each service that has a part in it."""
        saga, _ = self._chance.choices(self._sagas, weights=[weight for _, weight in self._sagas])[0]
        await saga(due)

    async def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            await connection.close()
        await super().close()

    async def _connected(self) -> AsyncConnection:
        place = self._routing.places[self._service]
        known = self._connections.get(place)
        if known is None or known.closed:
            known = self._connections[place] = await AsyncConnection.connect(
                self._routing.urls[place], application_name="storefront", options=OPTIONS, connect_timeout=10
            )
        self._connection = known
        return known

    async def _turned_away(self) -> None:
        await asyncio.sleep(0.01)
        await self._routing.look()

    async def _do(
        self,
        service: str,
        what: str,
        action: Action,
        due: float | None = None,
        isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
    ) -> bool:
        """Have a service do one transaction; return whether it was acknowledged."""
        self._service, self._requests = service, f"{service}_requests"
        return await self._attempt(f"{service}.{what}", action, isolation, due or time.time())

    # What customers do. Money and stock are taken before what they are for is written, and given back if it is not.

    async def _browsing(self, due: float) -> None:
        category, shopper = self._chance.randrange(1, 41), self._shopper()

        async def listing(work: Work) -> None:
            await work.all(
                "SELECT id, name, gross_cents, brand FROM product_listing WHERE category_id = %s ORDER BY id LIMIT 20",
                (category,),
            )

        async def orders(work: Work) -> None:
            await work.all(
                "SELECT id, status, total_cents, lines FROM order_summary WHERE customer_id = %s"
                " ORDER BY id DESC LIMIT 5",
                (shopper.id,),
            )

        async def track(work: Work) -> None:
            await work.insert(
                "analytics_events",
                reference=work.name(),
                occurred_at=moment(),
                name="view",
                properties={"category": category},
            )

        await self._do("catalogue", "browse", listing, due)
        await self._do("customer", "orders", orders)
        if self._chance.random() < 0.5:
            await self._do("analytics", "track", track)

    async def _filling(self, due: float) -> None:
        await self._do("customer", "fill_cart", self._fill_cart, due, IsolationLevel.REPEATABLE_READ)

    async def _ordering(self, due: float) -> None:
        shopper = self._shopper()
        basket = self._basket(shopper)

        async def reserve(work: Work) -> None:
            await self._reserve(work, basket)
            if self._chance.random() < 0.03:
                raise RollBackOnPurpose

        async def place(work: Work) -> Callable[[], None]:
            order = await self._place(work, shopper, basket)
            await _publish(work, "order.placed", order, _placed(order, basket))
            return lambda: self._placed(shopper, basket, order)

        if await self._do("catalogue", "reserve", reserve, due) and not await self._do("customer", "order", place):
            await self._do("catalogue", "restock", lambda work: self._restock(work, basket.stock))

    async def _paying(self, due: float) -> None:
        shopper = self._holder("waiting")
        if shopper is None:
            await self._ordering(due)
            return
        order = shopper.waiting[0]
        if shopper.balance < order.total:
            await self._do("payment", "deposit", lambda work: self._deposit(work, shopper), due)
            return

        async def charge(work: Work) -> Callable[[], None]:
            await self._read_wallet(work, shopper)
            paid = await self._charge(work, shopper, order)
            await _publish(work, "payment.taken", order.id, {"cents": order.total, "at": moment()})
            return paid

        async def mark(work: Work) -> Callable[[], None]:
            await self._read_order(work, order)
            await self._mark_paid(work, shopper, order)
            return lambda: self._paid(shopper, order)

        if await self._do("payment", "charge", charge, due) and not await self._do("customer", "paid", mark):
            await self._give_back(shopper, order)
            shopper.waiting.remove(order)

    async def _give_back(self, shopper: Shopper, order: Order) -> bool:
        async def give(work: Work) -> Callable[[], None]:
            returned = await self._pay_back(work, shopper, order)
            await _publish(work, "payment.returned", order.id, {"cents": order.total, "at": moment()})
            return returned

        return await self._do("payment", "refund", give)

    async def _shipping(self, due: float) -> None:
        shopper = self._holder("paid")
        if shopper is None:
            await self._browsing(due)
            return
        await self._do("customer", "ship", lambda work: self._send(work, shopper, shopper.paid[0]), due)

    async def _refunding(self, due: float) -> None:
        shopper = self._holder("paid")
        if shopper is None:
            await self._browsing(due)
            return
        order = shopper.paid[0]

        async def mark(work: Work) -> Callable[[], Any]:
            await self._read_order(work, order)
            await self._mark_refunded(work, order)
            return shopper.paid.popleft

        if await self._do("customer", "refunded", mark, due) and await self._give_back(shopper, order):
            await self._do("catalogue", "restock", lambda work: self._restock(work, order.lines))

    async def _signing_up(self, due: float) -> None:
        made: list[Shopper] = []

        async def register(work: Work) -> None:
            made[:] = [await self._register(work)]
            if self._chance.random() < 0.05:
                raise RollBackOnPurpose

        async def open_wallet(work: Work) -> Callable[[], None]:
            await self._open_wallet(work, made[0])
            return lambda: self._shoppers.append(made[0])

        if await self._do("customer", "sign_up", register, due):
            await self._do("payment", "open_wallet", open_wallet)

    async def _changing(self, due: float) -> None:
        await self._do("customer", "profile", self._profile, due)

    async def _accounting(self, due: float) -> None:
        await self._do("payment", "statement", self._statement, due, IsolationLevel.REPEATABLE_READ)

    async def _wishing(self, due: float) -> None:
        await self._do("customer", "wish", self._wish, due)

    async def _reviewing(self, due: float) -> None:
        await self._do("catalogue", "review", self._review, due)


def _placed(order: int, basket: Basket) -> dict[str, Any]:
    return {
        "order": order,
        "at": moment(),
        "lines": [
            {"variant": variant, "quantity": quantity, "cents": cents} for variant, quantity, cents in basket.lines
        ],
    }


async def _publish(work: Work, topic: str, key: int, payload: dict[str, Any]) -> None:
    """Tell the other services, if this transaction is committed."""
    await work.one("SELECT segue_outbox.publish(%s, %s, %s)", (topic, str(key), json.dumps(payload)))


async def _serve(urls: dict[str, str], journal: Journal, *, clients: int, rate: float, seed: int) -> None:
    routing = Routing(urls)
    run = f"{int(time.time()):x}"
    crew = [ServiceClient(number, clients, routing, journal, run=run, seed=seed) for number in range(clients)]
    try:
        await drive(list[Client](crew), journal, rate=rate, run=run)
    finally:
        await routing.close()


def main() -> None:
    """Read the arguments and run until stopped."""
    parser = argparse.ArgumentParser(prog="python -m segue.demo.services", description=__doc__.splitlines()[0])
    parser.add_argument("--journal", type=Path, required=True, help="file to append the acknowledged changes to")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--rate", type=float, default=60.0, help="what customers do in a second, all clients together")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    journal = Journal(arguments.journal)
    try:
        asyncio.run(
            _serve(
                json.loads(os.environ["STOREFRONT_URLS"]),
                journal,
                clients=arguments.clients,
                rate=arguments.rate,
                seed=arguments.seed,
            )
        )
    finally:
        journal.close()


if __name__ == "__main__":
    main()
