-- What the cases are tried on, beside what they bring along themselves.
CREATE TABLE customers (id bigint PRIMARY KEY, name text);
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer_id bigint REFERENCES customers, day date NOT NULL DEFAULT '2026-01-01',
    amount int, note varchar(20), state text
);
INSERT INTO customers SELECT n, 'c' || n FROM generate_series(1, 5) AS n;
INSERT INTO orders (id, customer_id, amount) SELECT n, n % 5 + 1, n FROM generate_series(1, 50) AS n;
