-- A small shop for the tour in README.md: 100,000 customers and their orders.
CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    first_name text NOT NULL,
    last_name text NOT NULL,
    email text NOT NULL UNIQUE
);

CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers (id),
    total numeric(10, 2) NOT NULL,
    ordered_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO customers (first_name, last_name, email)
SELECT
    (ARRAY['Ada', 'Grace', 'Edsger', 'Barbara', 'Donald'])[1 + n % 5],
    (ARRAY['Byron', 'Murray', 'Dijkstra', 'Huberman', 'Knuth', 'Codd', 'Chen'])[1 + n % 7],
    'customer' || n || '@example.com'
FROM generate_series(1, 100000) AS n;

INSERT INTO orders (customer_id, total)
SELECT 1 + n % 100000, (n % 20000) / 100.0
FROM generate_series(1, 50000) AS n;

CREATE INDEX orders_by_customer ON orders (customer_id);

ANALYZE customers, orders;
