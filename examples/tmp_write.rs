fn main() {
    for (name, text) in egret::core::policy::schema::files() {
        std::fs::write(format!("repo-template/schemas/{name}"), text).unwrap();
    }
    use egret::core::policy::catalogue::*;
    for (p, f, o) in
        [("a.yaml", "mistakes.yaml", "mistakes.txt"), ("egret.yaml", "mistakes_config.yaml", "mistakes_config.txt")]
    {
        let text = std::fs::read_to_string(format!("tests/it/documents/{f}")).unwrap();
        let mut c = Catalogue::new("prod");
        c.update(std::collections::BTreeMap::from([(p.to_owned(), Change::Text(text))]));
        let s: String = c
            .diagnostics()
            .iter()
            .map(|one| {
                format!(
                    "{}:{} {} {}: {} | {} | {}\n",
                    one.start.line,
                    one.start.column,
                    one.severity,
                    one.code,
                    one.message,
                    one.label,
                    one.hint.as_deref().unwrap_or("")
                )
            })
            .collect();
        std::fs::write(format!("tests/it/documents/{o}"), s).unwrap();
    }
    let mut c = Catalogue::new("prod");
    c.update(std::collections::BTreeMap::from([(
        "a.yaml".to_owned(),
        Change::Text(std::fs::read_to_string("tests/it/documents/everything.yaml").unwrap()),
    )]));
    std::fs::write("tests/it/documents/everything.txt", format!("{:#?}\n", c.policies())).unwrap();
}
