-- The analytics service: a star. Facts are what the other services publish; they come once, in no order between keys.

CREATE SCHEMA sales;

CREATE TABLE sales.day (
  day date PRIMARY KEY,
  year smallint NOT NULL,
  month smallint NOT NULL,
  weekday smallint NOT NULL
);
INSERT INTO sales.day
SELECT d, extract(year FROM d), extract(month FROM d), extract(isodow FROM d)
FROM generate_series(date '2020-01-01', date '2039-12-31', interval '1 day') AS g (at), LATERAL (SELECT g.at::date) AS x (d);

-- A dimension that fills as it is met.
CREATE TABLE sales.variant (
  variant_id bigint PRIMARY KEY,
  price_cents integer NOT NULL
);

CREATE TABLE sales.order_line (
  order_id bigint NOT NULL,
  position integer NOT NULL,
  day date NOT NULL REFERENCES sales.day (day),
  variant_id bigint NOT NULL REFERENCES sales.variant (variant_id),
  quantity integer NOT NULL,
  unit_cents integer NOT NULL,
  PRIMARY KEY (order_id, position)
);
CREATE INDEX order_line_day ON sales.order_line USING brin (day);

CREATE TABLE sales.payment (
  order_id bigint NOT NULL,
  direction smallint NOT NULL CHECK (direction IN (-1, 1)),
  day date NOT NULL REFERENCES sales.day (day),
  cents bigint NOT NULL,
  PRIMARY KEY (order_id, direction)
);

CREATE VIEW sales.by_month AS
  SELECT d.year, d.month, sum(p.direction * p.cents) AS revenue_cents, count(*) FILTER (WHERE p.direction = 1) AS paid
  FROM sales.payment p JOIN sales.day d USING (day)
  GROUP BY d.year, d.month;

CREATE FUNCTION sales.hear(id bigint, topic text, key text, payload jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
  today date := ((payload ->> 'at')::timestamptz AT TIME ZONE 'UTC')::date;
BEGIN
  IF topic = 'order.placed' THEN
    INSERT INTO sales.variant
    SELECT DISTINCT ON (1) (line ->> 'variant')::bigint, (line ->> 'cents')::integer
    FROM jsonb_array_elements(payload -> 'lines') AS l (line)
    ON CONFLICT DO NOTHING;
    INSERT INTO sales.order_line
    SELECT (payload ->> 'order')::bigint, l.position, today, (l.line ->> 'variant')::bigint,
      (l.line ->> 'quantity')::integer, (l.line ->> 'cents')::integer
    FROM jsonb_array_elements(payload -> 'lines') WITH ORDINALITY AS l (line, position);
  ELSIF topic = 'payment.taken' THEN
    INSERT INTO sales.payment VALUES (key::bigint, 1, today, (payload ->> 'cents')::bigint);
  ELSIF topic = 'payment.returned' THEN
    INSERT INTO sales.payment VALUES (key::bigint, -1, today, (payload ->> 'cents')::bigint);
  END IF;
END $$;
