//! Go templates as people write them behind `--format`: what [`super::Template`] renders and refuses.

use serde_json::json;

use super::Template;

fn render(template: &str) -> Result<String, String> {
    let data = json!({
        "ID": "abc", "Names": ["a", "b"], "State": {"Running": true, "Pid": 7},
        "Labels": {"x": "1", "y": "2"}, "Empty": "", "None": null, "CapAdd": null, "Volumes": null,
    });
    Template::parse(template)?.render(&data)
}

#[test]
fn templates_render_as_in_go() {
    let cases = [
        ("plain", "plain"),
        ("{{.ID}}", "abc"),
        ("{{ .State.Pid }}/{{.State.Running}}", "7/true"),
        ("{{json .Names}}", r#"["a","b"]"#),
        ("{{.Names}}", "[a b]"),
        (r#"{{join .Names ", "}}"#, "a, b"),
        ("{{upper .ID}} {{.ID | upper | lower}}", "ABC abc"),
        (
            r#"{{index .Labels "x"}}{{index .Names 1}}{{index .Labels "none"}}"#,
            "1b",
        ),
        ("{{range .Names}}<{{.}}>{{end}}", "<a><b>"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}", "x=1 y=2 "),
        ("{{range $i, $n := .Names}}{{if $i}},{{end}}{{$n}}{{end}}", "a,b"),
        ("{{if .Empty}}no{{else if .ID}}yes{{else}}never{{end}}", "yes"),
        ("{{with .State}}{{.Pid}}{{$.ID}}{{end}}", "7abc"),
        (r#"{{if eq .ID "abc" "d"}}same{{end}}"#, "same"),
        ("{{if and .ID (not .Empty)}}both{{end}}", "both"),
        ("a {{- .ID -}} b", "aabcb"),
        (
            r#"{{printf "%-5s|%q|%d" .ID .ID .State.Pid}}"#,
            r#"abc  |"abc"|7"#,
        ),
        (r#"{{$x := .ID}}{{$x}}"#, "abc"),
        ("{{len .Names}}{{/* comment */}}", "2"),
        ("{{.None}}", "<no value>"),
        (
            r#"{{.CapAdd}} {{.Volumes}} {{json .CapAdd}} {{join .CapAdd ","}}"#,
            "[] map[] null ",
        ),
        (r#"{{slice .ID 1 2}}{{slice .Names 1}}"#, "b[b]"),
        (r#"{{html "<a & 'b'>"}}"#, "&lt;a &amp; &#39;b&#39;&gt;"),
        (r#"{{urlquery "a b&c"}} {{js "it's"}}"#, r"a+b%26c it\'s"),
        (
            r#"{{printf "%05d|%.2f|%.2s" .State.Pid 1.5 .ID}}"#,
            "00007|1.50|ab",
        ),
    ];
    for (template, expected) in cases {
        assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (template, expected) in [
        (
            "{{.Nope}}",
            r#"template: :1:2: executing "" at <.Nope>: map has no entry for key "Nope""#,
        ),
        (
            "{{.State.Nope}}",
            r#"template: :1:8: executing "" at <.State.Nope>: map has no entry for key "Nope""#,
        ),
        ("{{", "template parsing error: template: :1: unclosed action"),
        (
            "{{nofunc}}",
            r#"template parsing error: template: :1: function "nofunc" not defined"#,
        ),
    ] {
        assert_eq!(render(template).unwrap_err(), expected, "{template}");
    }
}

#[test]
fn mistakes_are_errors() {
    for template in [
        "{{.Nope}}",
        "{{nope}}",
        "{{.ID",
        "{{if .ID}}",
        "{{end}}",
        "{{.ID.Deep}}",
        "{{}}",
        "{{\"open}}",
    ] {
        assert!(render(template).is_err(), "{template}");
    }
}

#[test]
fn labels_are_found_in_rows() {
    let row = json!({ "Labels": "a=1,b=x,y,c=" });
    let render = |template: &str| Template::parse(template)?.render(&row);
    assert_eq!(
        render(r#"{{.Label "a"}}|{{.Label "b"}}|{{.Label "c"}}|{{.Label "d"}}"#).as_deref(),
        Ok("1|x,y||")
    );
    assert!(
        Template::parse(r#"{{.Label "a"}}"#)
            .unwrap()
            .render(&json!({}))
            .is_err()
    );
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "\\PC*", pieces in proptest::collection::vec(
        proptest::sample::select(vec![
            "{{", "}}", "{{-", "-}}", ".ID", ".", "$", "$x", ":=", "|", "range", "if", "else", "end", "with", "json", "printf",
            "\"%5.9999d\"", "\"%s\"", "(", ")", " ", "index", ".Names", "1", "99999999999999999999", "-1", "/*", "*/", "é", ",", "len",
            "slice", "truncate", "pad",
        ]),
        0..16,
    )) {
        let _ = render(&text);
        let _ = render(&pieces.concat());
        let _ = render(&format!("{{{{{}}}}}", pieces.join(" ")));
    }
}
