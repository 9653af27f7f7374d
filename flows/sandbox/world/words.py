"""The vocabulary of the generated company: names in every script, products, pages, currencies."""

from __future__ import annotations

NAMES = (
    "Ada Lovelace",
    "Grace O'Malley",
    "Jean-Luc Lefèvre",
    "María José Núñez",
    "Ægir Þórsson",
    "Łukasz Żółć",
    "İpek Çelik",
    'Zoë "Zed" Quinn',
    "Nguyễn Thị Hương",
    "Søren Ødegård",
    "Björk Guðmundsdóttir",
    "Siobhán Ní Bhriain",
    "Анна Каренина",
    "Тарас Шевченко",
    "Ελένη Παπαδοπούλου",
    "Հայկ Սարգսյան",
    "ნინო ბერიძე",
    "דוד בן-גוריון",
    "محمد الأمين",
    "فاطمة زهراء",
    "زرین 'گل' احمدی",
    "अमृता शेरगिल",
    "রবীন্দ্রনাথ ঠাকুর",
    "ਗੁਰਪ੍ਰੀਤ ਸਿੰਘ",
    "કિરણ પટેલ",
    "இளங்கோ முருகன்",
    "సీతారామ శాస్త్రి",
    "ಕಾವ್ಯ ಗೌಡ",
    "മീര നായർ",
    "නිමල් පෙරේරා",
    "สมชาย ใจดี",
    "ສົມໃຈ ແກ້ວ",
    "အောင်ဆန်း",
    "ភិរម្យ សុខ",
    "བསྟན་འཛིན",
    "王小明",
    '李 "小龙" 强',
    "山田 太郎",
    "さくら もも",
    "カトリーヌ",
    "김민준",
    "박서연",
    "ᠴᠢᠩᠭᠢᠰ",
    "አበበ ቢቂላ",
    "ⵉⴷⵉⵔ ⴰⵎⵖⵔⵙ",
    "ᏣᎳᎩ ᎠᏂᎩ",
    "Kūkūʻana Kealoha",
    "O’Brien, Pat",
    "Robert'); DROP TABLE users;--",
    "back\\slash",
    "tab\there",
    "line\nbreak",
    "emoji 🦄 fan",
    "e\u0301 (combining)",
    "  padded  ",
    "NULL",
    "N/A",
    "comma, \"quote\", 'apostrophe'",
    "UPPER CASE",
    "a",
    "x" * 200,
)

COUNTRIES = (
    # country, locale, time zone, currency
    ("US", "en-US", "America/New_York", "USD"),
    ("US", "es-US", "America/Los_Angeles", "USD"),
    ("DE", "de-DE", "Europe/Berlin", "EUR"),
    ("FR", "fr-FR", "Europe/Paris", "EUR"),
    ("GB", "en-GB", "Europe/London", "GBP"),
    ("JP", "ja-JP", "Asia/Tokyo", "JPY"),
    ("KR", "ko-KR", "Asia/Seoul", "KRW"),
    ("IN", "hi-IN", "Asia/Kolkata", "INR"),
    ("BR", "pt-BR", "America/Sao_Paulo", "USD"),
    ("AU", "en-AU", "Australia/Lord_Howe", "USD"),
)
CURRENCIES = ("USD", "EUR", "GBP", "JPY", "KRW", "INR")
ZERO_DECIMAL = ("JPY", "KRW")
RATES = {"USD": 1.0, "EUR": 0.92, "GBP": 0.79, "JPY": 150.0, "KRW": 1380.0, "INR": 84.0}
"""Units of a currency for one US dollar, roughly: only what price lists are made with."""
ZONES = tuple(dict.fromkeys(zone for _, _, zone, _ in COUNTRIES))

CITIES = (
    "New York",
    "Los Ángeles",
    "München",
    "Saint-Étienne",
    "Llanfairpwll",
    "東京",
    "서울",
    "मुंबई",
    "São Paulo",
    "Sydney",
)

CATEGORIES = (
    (1, None, "Everything"),
    (2, 1, "Home & Garden"),
    (3, 1, 'Books, "Used"'),
    (4, 1, "Électronique"),
    (5, 2, "Kitchen"),
    (6, 2, "Garten"),
    (7, 3, "Comics / 漫画"),
    (8, 4, "Audio"),
    (9, 4, "Phones"),
    (10, 5, "Knives"),
    (11, 8, "Kopfhörer"),
    (12, 1, "Gift cards"),
)
SUPPLIERS = (
    (1, "Acme Corp.", "US"),
    (2, "Müller & Söhne GmbH", "DE"),
    (3, "山本商店", "JP"),
    (4, "O'Reilly's", "IE"),
    (5, "ООО «Ромашка»", "KZ"),
    (6, "대한상사", "KR"),
    (7, "Tata & Co", "IN"),
    (8, '"Best" Supplies, Ltd', "GB"),
)
PRODUCT_WORDS = (
    "Lamp",
    "Messer",
    "Théière",
    "漫画",
    "Speaker",
    "O'Clock",
    "Chair",
    "傘",
    "Notebook",
    '3/4" Bolt',
)
PRODUCT_STYLES = ("Classic", "Mini", "Größe XL", '"Pro"', "Eco", "100%", "№5", "Ultra-Light")
TAGS = ("new", "sale", "eco", "it's hot", "two words", "a,b", "{curly}", '"quoted"', "NULL", "日本")
WAREHOUSES = ("berlin-1", "newark-2", "大阪")
CARRIERS = ("DHL", "UPS", "ヤマト運輸", "La Poste")

PAGES = (
    "/",
    "/products",
    "/products/1?ref=mail&utm_source=news",
    "/products/2",
    '/products/lamp-"classic"',
    "/cart",
    "/checkout",
    "/search?q=th%C3%A9i%C3%A8re",
    "/search?q=théière",
    "/カテゴリ/漫画",
    "/account",
    "/account/orders",
    "/pricing",
    "/blog/it's-here",
    "/blog/2025/10/26?tz=Europe/Berlin",
    "/help",
    "/help/returns#policy",
    "/a/very/long/" + "path/" * 40,
    "/emoji/🦄",
    "/login",
)
TITLES = (
    "Home",
    "Products",
    'Lamp "Classic"',
    "Warenkorb",
    "購入",
    "Search results",
    "Blog: it's here",
    "Help",
    "",
)
REFERRERS = (
    "https://www.example.com/",
    "https://news.example.org/item?id=1",
    "android-app://com.example",
    "https://例え.テスト/",
    "",
)
ELEMENTS = ("button#buy", "a.nav > span", 'input[name="q"]', "#cart", "img[alt='фото']", "svg", "body")

EVENT_TYPES = (
    ("login", 0.14),
    ("logout", 0.06),
    ("search", 0.22),
    ("product_view", 0.2),
    ("add_to_cart", 0.14),
    ("remove_from_cart", 0.04),
    ("checkout_started", 0.07),
    ("feature_used", 0.08),
    ("error_shown", 0.03),
)
UNKNOWN_EVENT_TYPES = (("cart.abandon_v2", 0.01), ("beta:実験", 0.006), ("Checkout Started ", 0.004))
"""Types no catalogue lists: kept by the pipeline, worth a warning."""

PROPERTIES = (
    '{"plan":"pro","source":"web"}',
    '{"query":"th\\u00e9i\\u00e8re","results":12}',
    "{}",
    '{"nested":{"a":[1,2,{"b":null}]},"ok":true}',
    '{"note":"a NUL: \\u0000 inside"}',
    '{"quote":"she said \\"hi\\"","back":"\\\\"}',
    '{"emoji":"\\ud83e\\udd84","raw":"🦄"}',
    '{"price":19.99,"currency":"EUR"}',
    '{"big":9223372036854775807,"small":-1e-7}',
    '{"":"empty key","a b":"space"}',
    '{"list":[],"n":null}',
    '{"dup":1,"dup2":2}',
    '{"html":"<script>alert(1)</script>","path":"..\\/..\\/etc"}',
    '{"rtl":"مرحبا","zwj":"👩‍👩‍👧"}',
)

SUBJECTS = (
    "Your order is confirmed",
    "Welcome! Ready to start?",
    'This week: it\'s "all" on sale',
    "今週のおすすめ",
)
REVIEW_TITLES = ("Great", "It's fine", "Schlecht!", "最高", '"Meh"', "🦄")
TICKET_SUBJECTS = (
    "Where is my order?",
    "Wrong colour",
    "Rückgabe",
    "返品したい",
    'Can\'t log in; "error 500"',
)
