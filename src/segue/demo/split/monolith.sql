-- What the application needs in the monolith, once it is several services: where each of them is, and requests of its
-- own for each. What read several domains at once has to go; the analytics service answers it from now on.

CREATE TABLE service_routing (
  service text PRIMARY KEY,
  database text NOT NULL
);
INSERT INTO service_routing (service, database)
VALUES ('customer', 'monolith'), ('catalogue', 'monolith'), ('payment', 'monolith'), ('analytics', 'monolith');

CREATE TABLE customer_requests (LIKE requests INCLUDING ALL);
CREATE TABLE catalogue_requests (LIKE requests INCLUDING ALL);
CREATE TABLE payment_requests (LIKE requests INCLUDING ALL);
CREATE TABLE analytics_requests (LIKE requests INCLUDING ALL);

DROP MATERIALIZED VIEW category_sales;

GRANT SELECT ON service_routing TO storefront_app;
GRANT SELECT, INSERT ON customer_requests, catalogue_requests, payment_requests, analytics_requests TO storefront_app;
