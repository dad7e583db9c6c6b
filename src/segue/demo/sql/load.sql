-- Fills the storefront. Sizes come from pg_temp.sizes, chance from pg_temp.pick(number, salt, below), both made by
-- storefront.py: the same seed gives the same rows.

INSERT INTO loyalty_tiers VALUES
  (1, 'bronze', 0, '{}'), (2, 'silver', 500, '{free-returns}'), (3, 'gold', 2000, '{free-returns,fast-lane}');

INSERT INTO customers (id, first_name, last_name, email, phone, fax, status, tier_id, created_at, updated_at)
SELECT g, first, last, lower(first) || '.' || lower(last) || '.' || g || '@example.com',
  CASE WHEN pg_temp.pick(g, 3, 3) > 0 THEN '+3161' || lpad((g % 10000000)::text, 7, '0') END,
  CASE WHEN pg_temp.pick(g, 4, 10) = 0 THEN '+3120' || lpad((g % 10000000)::text, 7, '0') END,
  CASE pg_temp.pick(g, 5, 20) WHEN 0 THEN 'blocked' WHEN 1 THEN 'dormant' ELSE 'active' END::customer_status,
  1 + pg_temp.pick(g, 6, 3), at, at
FROM generate_series(1, (SELECT customers FROM pg_temp.sizes)) g,
  LATERAL (SELECT
    ('{Ada,Ben,Chloé,Dmitri,Emma,Femke,Goran,Hana,Ivo,Jun,Kofi,Lena,Mila,Noor,Otto,Pia}'::text[])[1 + pg_temp.pick(g, 1, 16)] AS first,
    ('{Jansen,Okafor,Müller,Silva,Novak,Tanaka,Smith,Haddad,Kowalski,Costa,Berg,Rossi}'::text[])[1 + pg_temp.pick(g, 2, 12)] AS last,
    '2023-01-01 00:00:00+00'::timestamptz + g * interval '20 seconds' AS at) made;

INSERT INTO addresses (id, customer_id, label, street, city, postcode, country)
SELECT g, g, 'home', 'Kade ' || 1 + pg_temp.pick(g, 10, 300),
  ('{Utrecht,Gent,Bremen,Lille,Aarhus,Porto}'::text[])[1 + pg_temp.pick(g, 11, 6)],
  (1000 + pg_temp.pick(g, 12, 9000))::text, ('{NL,BE,DE,FR,DK,PT}'::text[])[1 + pg_temp.pick(g, 11, 6)]
FROM generate_series(1, (SELECT customers FROM pg_temp.sizes)) g;

INSERT INTO customer_preferences (customer_id, settings, languages)
SELECT g, jsonb_build_object('newsletter', pg_temp.pick(g, 20, 2) = 0, 'theme', 'light'), '{en,nl}'
FROM generate_series(10, (SELECT customers FROM pg_temp.sizes), 10) g;

INSERT INTO customer_segments (name, rule)
SELECT 'segment ' || g, jsonb_build_object('minimum_orders', g) FROM generate_series(1, 8) g;
INSERT INTO customer_segment_members
SELECT 1 + pg_temp.pick(g, 21, 8), g, '2025-01-01'::date + pg_temp.pick(g, 22, 300)
FROM generate_series(1, (SELECT customers FROM pg_temp.sizes), 20) g;

INSERT INTO loyalty_accounts
SELECT g, pg_temp.pick(g, 23, 3000) FROM generate_series(10, (SELECT customers FROM pg_temp.sizes), 10) g;

INSERT INTO support_tickets (id, customer_id, subject, state, opened_at)
SELECT g, 1 + pg_temp.pick(g, 24, (SELECT customers FROM pg_temp.sizes)), 'where is my parcel', 'closed',
  '2025-01-01 00:00:00+00'::timestamptz + g * interval '7 minutes'
FROM generate_series(1, (SELECT few FROM pg_temp.sizes)) g;
INSERT INTO support_messages
SELECT g, p, CASE p WHEN 1 THEN 'customer' ELSE 'agent' END, 'message ' || p
FROM generate_series(1, (SELECT few FROM pg_temp.sizes)) g, generate_series(1, 2) p;

INSERT INTO brands (name) SELECT 'Brand ' || g FROM generate_series(1, 40) g;
INSERT INTO categories SELECT g, CASE WHEN g > 8 THEN 1 + g % 8 END, 'Category ' || g,
  CASE WHEN g > 8 THEN ARRAY['Category ' || 1 + g % 8] ELSE '{}' END
FROM generate_series(1, 40) g;
INSERT INTO products (id, brand_id, category_id, name, description, price_cents, features, keywords, updated_at)
SELECT g, 1 + pg_temp.pick(g, 30, 40), 1 + pg_temp.pick(g, 31, 40), 'Product ' || g,
  'A thing of use number ' || g, 500 + pg_temp.pick(g, 32, 9500),
  jsonb_build_object('material', ('{oak,steel,wool}'::text[])[1 + pg_temp.pick(g, 33, 3)], 'grade', g % 5),
  ARRAY['k' || g % 7, 'k' || g % 11], '2025-01-01 00:00:00+00'
FROM generate_series(1, (SELECT products FROM pg_temp.sizes)) g;
INSERT INTO product_variants (id, product_id, sku, size, colour, weight_grams)
SELECT g, 1 + (g - 1) / 2, 'SKU-' || lpad(g::text, 8, '0'), ('{S,L}'::text[])[1 + g % 2], 'blue', 100 + pg_temp.pick(g, 34, 4000)
FROM generate_series(1, (SELECT products FROM pg_temp.sizes) * 2) g;
INSERT INTO product_images
SELECT g, p, '/images/' || g || '-' || p || '.webp' FROM generate_series(1, (SELECT products FROM pg_temp.sizes)) g, generate_series(1, 2) p;
INSERT INTO product_attributes
SELECT g, a, 'value ' || pg_temp.pick(g, 35, 50)
FROM generate_series(1, (SELECT products FROM pg_temp.sizes)) g, unnest('{origin,care}'::text[]) a;
INSERT INTO tags (name) SELECT 'tag ' || g FROM generate_series(1, 30) g;
INSERT INTO product_tags
SELECT g, 1 + pg_temp.pick(g, 36, 30) FROM generate_series(1, (SELECT products FROM pg_temp.sizes)) g;
INSERT INTO related_products
SELECT g, 1 + g % (SELECT products FROM pg_temp.sizes), pg_temp.pick(g, 37, 100) / 100.0
FROM generate_series(1, (SELECT products FROM pg_temp.sizes)) g;
INSERT INTO price_lists (name, currency, valid_during) VALUES
  ('retail', 'EUR', '[2025-01-01,)'), ('trade', 'EUR', '[2025-01-01,)'), ('nordic', 'DKK', '[2025-01-01,2027-01-01)');
INSERT INTO prices
SELECT l, g, 500 + pg_temp.pick(g, 32, 9500) * l
FROM generate_series(1, (SELECT products FROM pg_temp.sizes)) g, generate_series(1, 3) l;
INSERT INTO suppliers (name, contact, rating)
SELECT 'Supplier ' || g, jsonb_build_object('mail', 'sales' || g || '@example.com'), (pg_temp.pick(g, 38, 500) / 100.0)
FROM generate_series(1, 25) g;
INSERT INTO supplier_products
SELECT 1 + pg_temp.pick(g, 39, 25), g, 200 + pg_temp.pick(g, 40, 5000), '5 days'
FROM generate_series(1, (SELECT products FROM pg_temp.sizes)) g;

INSERT INTO warehouses VALUES (1, 'Utrecht', 'NL', '[6,22)'), (2, 'Gent', 'BE', '[7,19)');
INSERT INTO warehouse_zones SELECT w, z, 1000 FROM generate_series(1, 2) w, unnest('{A,B,C}'::text[]) z;
INSERT INTO inventory (id, warehouse_id, variant_id, on_hand)
SELECT g, 1 + g % 2, g, 20000 + pg_temp.pick(g, 41, 500) FROM generate_series(1, (SELECT products FROM pg_temp.sizes) * 2) g;
INSERT INTO stock_counts (inventory_id, counted, counted_on)
SELECT g, 20000 + pg_temp.pick(g, 41, 500), '2025-12-31' FROM generate_series(1, (SELECT products FROM pg_temp.sizes)) g;
INSERT INTO purchase_orders (id, supplier_id, warehouse_id, ordered_on, arrived_on)
SELECT g, 1 + pg_temp.pick(g, 42, 25), 1 + g % 2, '2025-01-01'::date + g % 300, '2025-01-10'::date + g % 300
FROM generate_series(1, (SELECT few FROM pg_temp.sizes)) g;
INSERT INTO purchase_order_items
SELECT g, 1 + pg_temp.pick(g, 43, (SELECT products FROM pg_temp.sizes)), 10 + pg_temp.pick(g, 44, 90), 200 + pg_temp.pick(g, 45, 900)
FROM generate_series(1, (SELECT few FROM pg_temp.sizes)) g;

INSERT INTO coupons SELECT 'SAVE' || g, 1 + g % 50, '2027-12-31' FROM generate_series(1, 50) g;
INSERT INTO tax_rates SELECT c, k, 6 + pg_temp.pick(length(k), 46, 15)
FROM unnest('{NL,BE,DE,FR,DK,PT}'::text[]) c, unnest('{food,books,other}'::text[]) k;
INSERT INTO shipping_methods VALUES (1, 'parcel', '{1,2}'), (2, 'letter', '{2,3}'), (3, 'freight', '{5,9}');
INSERT INTO shipping_zones VALUES (1, 'home', '{NL,BE}'), (2, 'abroad', '{DE,FR,DK,PT}');
INSERT INTO shipping_rates SELECT m, z, 300 * m * z FROM generate_series(1, 3) m, generate_series(1, 2) z;

-- Orders know their total beforehand: each line is a function of order and line number.
INSERT INTO orders (id, reference, customer_id, shipping_address_id, coupon_code, status, total_cents, notes, placed_at, updated_at)
SELECT g, 'o' || g, buyer, CASE WHEN g % 20 > 0 THEN buyer END, CASE WHEN g % 50 = 0 THEN 'SAVE' || 1 + g % 50 END,
  ('{paid,shipped,shipped,delivered,delivered,delivered,cancelled,pending}'::order_status[])[1 + g % 8],
  (SELECT sum((1 + pg_temp.pick(g * 4 + l, 51, 3)) * (500 + pg_temp.pick(g * 4 + l, 52, 9500)))
   FROM generate_series(1, 1 + g % 2) l),
  CASE WHEN pg_temp.pick(g, 53, 5) = 0 THEN 'leave it at number ' || pg_temp.pick(g, 54, 100) END, at, at
FROM generate_series(1, (SELECT orders FROM pg_temp.sizes)) g,
  LATERAL (SELECT 1 + pg_temp.pick(g, 50, (SELECT customers FROM pg_temp.sizes)) AS buyer,
    '2024-01-01 00:00:00+00'::timestamptz + g * interval '8 minutes' AS at) made;
INSERT INTO order_items (id, reference, order_id, variant_id, quantity, unit_cents)
SELECT (g - 1) * 2 + l, 'i' || (g - 1) * 2 + l, g, 1 + pg_temp.pick(g * 4 + l, 55, (SELECT products FROM pg_temp.sizes) * 2),
  1 + pg_temp.pick(g * 4 + l, 51, 3), 500 + pg_temp.pick(g * 4 + l, 52, 9500)
FROM generate_series(1, (SELECT orders FROM pg_temp.sizes)) g, generate_series(1, 1 + g % 2) l;
INSERT INTO order_status_history (order_id, status, at)
SELECT id, status, placed_at FROM orders ORDER BY id;
INSERT INTO payments (id, reference, order_id, method, status, amount_cents, paid_at)
SELECT id, 'p' || id, id, 'card', 'captured', total_cents, placed_at + interval '1 minute'
FROM orders WHERE status IN ('paid', 'shipped', 'delivered') ORDER BY id;
INSERT INTO invoices
SELECT 'INV-' || id, id, jsonb_build_array(jsonb_build_object('order', reference, 'total', total_cents)), placed_at::date
FROM orders WHERE id % 20 = 3 ORDER BY id;
INSERT INTO shipments (id, reference, order_id, method_id, status, sent_at)
SELECT id, 's' || id, id, 1 + id % 3, 'arrived', placed_at + interval '1 day'
FROM orders WHERE status = 'delivered' AND id % 3 = 0 ORDER BY id;
INSERT INTO shipment_events
SELECT id, p, 'hub ' || pg_temp.pick(id, 56, 9) FROM shipments, generate_series(1, 2) p WHERE id % 9 = 0;
INSERT INTO returns (id, order_id, reason, returned_on)
SELECT g, g * 8 + 3, ('{damaged,wrong-item,late,changed-mind}'::return_reason[])[1 + g % 4], '2026-01-01'
FROM generate_series(1, (SELECT few FROM pg_temp.sizes)) g;
INSERT INTO return_items SELECT g, 1 + pg_temp.pick(g, 57, (SELECT products FROM pg_temp.sizes)), 1
FROM generate_series(1, (SELECT few FROM pg_temp.sizes)) g;
INSERT INTO carts (id, reference, customer_id, status, updated_at)
SELECT g / 10, 'c' || g, g, 'open', '2026-01-01 00:00:00+00'
FROM generate_series(10, (SELECT customers FROM pg_temp.sizes), 10) g;

-- One wallet for every tenth customer, filled from the bank.
INSERT INTO accounting_periods VALUES ('[2025-01-01,2026-01-01)', true), ('[2026-01-01,2027-01-01)', false);
INSERT INTO accounts (id, kind, balance_cents)
SELECT g, CASE WHEN g = 1 THEN 'bank' WHEN g < 18 THEN 'revenue' ELSE 'tax' END::account_kind,
  CASE WHEN g = 1 THEN -(SELECT sum(200000 + pg_temp.pick(c, 60, 100000)) FROM generate_series(10, (SELECT customers FROM pg_temp.sizes), 10) c) ELSE 0 END
FROM generate_series(1, 18) g;
INSERT INTO accounts (id, kind, customer_id, balance_cents)
SELECT 100 + g / 10, 'wallet', g, 200000 + pg_temp.pick(g, 60, 100000)
FROM generate_series(10, (SELECT customers FROM pg_temp.sizes), 10) g;
INSERT INTO accounting_transactions (id, reference, description, booked_at)
SELECT g / 10, 'a' || g, 'first deposit', '2025-01-01 00:00:00+00' FROM generate_series(10, (SELECT customers FROM pg_temp.sizes), 10) g;
INSERT INTO accounting_entries (id, reference, transaction_id, account_id, amount_cents)
SELECT g / 10 * 2 + side, 'e' || g || '-' || side, g / 10, CASE side WHEN 0 THEN 1 ELSE 100 + g / 10 END,
  CASE side WHEN 0 THEN -1 ELSE 1 END * (200000 + pg_temp.pick(g, 60, 100000))
FROM generate_series(10, (SELECT customers FROM pg_temp.sizes), 10) g, generate_series(0, 1) side;

INSERT INTO promotions (name, during, terms)
SELECT 'promotion ' || g, tstzrange('2026-01-01 00:00:00+00', '2027-01-01 00:00:00+00'), '{"stackable": false}' FROM generate_series(1, 10) g;
INSERT INTO promotion_products SELECT 1 + g % 10, g, 10 FROM generate_series(1, (SELECT products FROM pg_temp.sizes), 4) g;
INSERT INTO coupon_redemptions
SELECT 'SAVE' || 1 + g % 50, g, '2026-02-01' FROM generate_series(1, (SELECT customers FROM pg_temp.sizes), 40) g;
INSERT INTO campaigns (name, budget_cents) SELECT 'campaign ' || g, 100000 * g FROM generate_series(1, 5) g;
INSERT INTO campaign_deliveries
SELECT 1 + g % 5, g, '2026-02-01', g % 3 = 0 FROM generate_series(1, (SELECT customers FROM pg_temp.sizes), 15) g;
INSERT INTO reviews (id, reference, product_id, customer_id, stars, body, written_at)
SELECT g, 'r' || g, 1 + pg_temp.pick(g, 70, (SELECT products FROM pg_temp.sizes)), 1 + pg_temp.pick(g, 71, (SELECT customers FROM pg_temp.sizes)),
  1 + pg_temp.pick(g, 72, 5), 'does what it should', '2025-06-01 00:00:00+00'::timestamptz + g * interval '13 minutes'
FROM generate_series(1, (SELECT customers FROM pg_temp.sizes) / 10) g;
INSERT INTO review_votes SELECT g, g, g % 2 = 0 FROM generate_series(1, (SELECT customers FROM pg_temp.sizes) / 10, 4) g;
INSERT INTO notification_templates VALUES ('shipped', '{mail,push}', 'your parcel is on its way'), ('welcome', '{mail}', 'welcome');
INSERT INTO notifications (id, customer_id, template, sent_at)
SELECT g, g, 'welcome', '2025-01-01 00:00:00+00' FROM generate_series(1, (SELECT customers FROM pg_temp.sizes) / 10) g;

INSERT INTO analytics_events (id, reference, occurred_at, name, properties)
SELECT g, 'v' || g, '2024-01-01 00:00:00+00'::timestamptz + g * interval '30 minutes',
  ('{visit,search,view,buy}'::text[])[1 + g % 4], jsonb_build_object('path', '/p/' || pg_temp.pick(g, 80, 1000))
FROM generate_series(1, (SELECT events FROM pg_temp.sizes)) g;
INSERT INTO page_views (id, device, path, viewed_at)
SELECT g, ('{web,web,ios,android,tv}'::text[])[1 + g % 5], '/p/' || pg_temp.pick(g, 81, 1000), '2026-01-01 00:00:00+00'
FROM generate_series(1, (SELECT events FROM pg_temp.sizes)) g;
INSERT INTO web_sessions
SELECT g, 1 + pg_temp.pick(g, 82, (SELECT customers FROM pg_temp.sizes)), '2026-01-01 00:00:00+00', 'agent/1.0'
FROM generate_series(1, (SELECT events FROM pg_temp.sizes) / 2) g;
INSERT INTO daily_sales SELECT '2024-01-01'::date + g, 100 + pg_temp.pick(g, 83, 50), 1000000 + pg_temp.pick(g, 84, 500000)
FROM generate_series(0, 700) g;
INSERT INTO search_queries (terms, hits, asked_at)
SELECT ARRAY['term' || g % 100], pg_temp.pick(g, 85, 90), '2026-01-01 00:00:00+00' FROM generate_series(1, (SELECT few FROM pg_temp.sizes)) g;
INSERT INTO audit_log (table_name, row_id, change, at, by)
SELECT 'products', g, '{"from": 1, "to": 2}', '2026-01-01 00:00:00+00', 'import' FROM generate_series(1, 100) g;
INSERT INTO feature_flags VALUES ('fast-checkout', true, '{"percent": 50}'), ('dark-mode', false, NULL);
INSERT INTO settings VALUES ('currency', '"EUR"'), ('opening-hours', '{"from": 8, "to": 20}');

REFRESH MATERIALIZED VIEW category_sales;
