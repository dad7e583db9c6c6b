-- The catalogue service: found by words and features, counted without waiting.

CREATE INDEX products_features ON products USING gin (features jsonb_path_ops);
CREATE INDEX products_keywords ON products USING gin (keywords);
CREATE INDEX product_variants_product_id ON product_variants (product_id);
CREATE INDEX inventory_low ON inventory (variant_id) WHERE on_hand <= 10;
ALTER TABLE inventory SET (fillfactor = 50);
CREATE VIEW stock AS
  SELECT v.sku, p.name, sum(i.on_hand) AS on_hand
  FROM inventory i JOIN product_variants v ON v.id = i.variant_id JOIN products p ON p.id = v.product_id
  GROUP BY v.sku, p.name;
GRANT SELECT ON stock TO storefront_app;
