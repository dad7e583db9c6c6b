-- Views, functions, triggers, and what the application's role may do.

CREATE VIEW product_listing AS
  SELECT p.id, p.name, p.gross_cents, b.name AS brand, c.name AS category, p.category_id
  FROM products p LEFT JOIN brands b ON b.id = p.brand_id JOIN categories c ON c.id = p.category_id;

CREATE VIEW order_summary AS
  SELECT o.id, o.reference, o.customer_id, o.status, o.total_cents, o.placed_at, count(i.id) AS lines
  FROM orders o LEFT JOIN order_items i ON i.order_id = o.id
  GROUP BY o.id;

CREATE VIEW wallet_balances AS
  SELECT customer_id, balance_cents FROM accounts WHERE kind = 'wallet';

CREATE MATERIALIZED VIEW category_sales AS
  SELECT p.category_id, count(*) AS lines, sum(i.line_cents) AS sold_cents
  FROM order_items i JOIN product_variants v ON v.id = i.variant_id JOIN products p ON p.id = v.product_id
  GROUP BY p.category_id;
CREATE UNIQUE INDEX category_sales_category_id ON category_sales (category_id);

CREATE FUNCTION order_status_changed() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
  INSERT INTO public.order_status_history (order_id, status) VALUES (new.id, new.status);
  RETURN NULL;
END $$;
CREATE TRIGGER order_placed AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION order_status_changed();
CREATE TRIGGER order_status_changed AFTER UPDATE ON orders
  FOR EACH ROW WHEN (old.status IS DISTINCT FROM new.status) EXECUTE FUNCTION order_status_changed();

CREATE FUNCTION product_changed() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
  INSERT INTO public.audit_log (table_name, row_id, change)
  VALUES ('products', new.id, jsonb_build_object('from', old.price_cents, 'to', new.price_cents));
  new.updated_at := clock_timestamp();
  RETURN new;
END $$;
CREATE TRIGGER product_changed BEFORE UPDATE ON products
  FOR EACH ROW WHEN (old.price_cents IS DISTINCT FROM new.price_cents) EXECUTE FUNCTION product_changed();

-- The two sides of a booking must cancel when the transaction ends.
CREATE FUNCTION booking_is_balanced() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
  IF (SELECT sum(amount_cents) FROM public.accounting_entries WHERE transaction_id = new.transaction_id) <> 0 THEN
    RAISE EXCEPTION 'the entries of transaction % do not sum to zero', new.transaction_id USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER booking_is_balanced AFTER INSERT ON accounting_entries
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION booking_is_balanced();

COMMENT ON TABLE orders IS 'what customers bought';
COMMENT ON COLUMN orders.notes IS 'what the customer asked for; to be called customer_note';

GRANT USAGE ON SCHEMA public TO storefront_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO storefront_app;
REVOKE ALL ON audit_log, settings FROM storefront_app;
GRANT INSERT ON audit_log TO storefront_app;
GRANT SELECT ON settings TO storefront_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO storefront_app;
