SELECT setseed(0.5);
-- Two thousand words of syllables, of which a text takes the first far more often than the last, as languages do.
INSERT INTO word
SELECT n, (SELECT string_agg(substr('balacodefagihojukelimanopuqaresitovuwaxezi',
                                    1 + 2 * (('x' || substr(md5(n || '.' || i), 1, 4))::bit(16)::int % 21), 2), '')
           FROM generate_series(1, 1 + n % 4) i)
FROM generate_series(1, 2000) n;
CREATE FUNCTION words(count int, salt int) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT string_agg(text, ' ' ORDER BY i) FROM (
        SELECT i, 1 + (1999 * random() ^ 4)::int + salt * 0 AS n FROM generate_series(1, count) i) AS chosen
    JOIN word USING (n) $$;
INSERT INTO product (id, name, description, attributes, price, stock, changed)
SELECT n, words(3, n), words(20 + n % 100, n),
    jsonb_build_object('colour', (ARRAY['red', 'green', 'blue', 'black'])[1 + n % 4], 'weight', n % 977,
        'tags', jsonb_build_array(words(1, n), words(1, n)), 'active', n % 3 = 0),
    n % 10000 / 100.0, 1000, now()
FROM generate_series(1, 4000 * :scale) n;
INSERT INTO customer SELECT n, words(1, n) || n || '@example.org', words(2, n), date '2020-01-01' + n % 2000
FROM generate_series(1, 3000 * :scale) n;
INSERT INTO orders (customer, at, status, note)
SELECT 1 + (random() * (3000 * :scale - 1))::int, timestamptz '2026-01-01' + n * interval '1 minute', 'sent',
    jsonb_build_object('text', words(6, n), 'gift', n % 9 = 0)
FROM generate_series(1, 15000 * :scale) n;
INSERT INTO line SELECT o.id, (o.id * 31 + i * 7919) % (4000 * :scale) + 1, 1 + i, 9.99 * i
FROM orders o, generate_series(1, 3) i ON CONFLICT DO NOTHING
