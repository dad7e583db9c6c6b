-- The customer service: what a customer sees of itself is one index away.

CREATE INDEX orders_latest ON orders (customer_id, id DESC) INCLUDE (status, total_cents, placed_at);
DROP INDEX orders_customer_id;
CREATE INDEX orders_open ON orders (updated_at) WHERE status IN ('pending', 'paid');
CREATE INDEX support_tickets_open ON support_tickets (customer_id) WHERE state <> 'closed';
CREATE INDEX customer_segment_members_customer_id ON customer_segment_members (customer_id);
CREATE INDEX notifications_customer_id ON notifications (customer_id, sent_at DESC);
-- Rows that are updated again and again keep room for their next version.
ALTER TABLE carts SET (fillfactor = 70);
ALTER TABLE orders SET (fillfactor = 85);
