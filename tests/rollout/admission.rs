//! What an API server (1.36), or Kyverno, does with a rendered policy: the match, the conditions, the variables, the
//! patch.
//!
//! A CEL interpreter evaluates the expressions as they were rendered. This module models, after Kubernetes'
//! documentation: which requests a policy is for, what the expressions see, `indexOf` on lists, the type `JSONPatch`,
//! and the patch's `replace`. It leaves out limits on cost and the check of types against the cluster's schemas.

use std::sync::Arc;

use cel::common::{types, value::CowVal};
use cel::{Context, Env, Program, StructDef, extensions};
use serde_json::{Map, Value, json};

/// One request for admission.
#[derive(Clone, Debug)]
pub struct Request {
    pub operation: &'static str,
    pub resource: &'static str,
    pub namespace: &'static str,
    pub namespace_labels: Value,
    pub object: Value,
    pub old: Value,
}

impl Request {
    /// A new pod.
    pub fn create(namespace: &'static str, pod: Value) -> Self {
        Self {
            operation: "CREATE",
            resource: "pods",
            namespace,
            namespace_labels: json!({}),
            object: pod,
            old: Value::Null,
        }
    }

    /// An update of an existing pod.
    pub fn update(namespace: &'static str, old: Value, pod: Value) -> Self {
        Self {
            operation: "UPDATE",
            old,
            ..Self::create(namespace, pod)
        }
    }
}

/// A policy that is in force.
pub struct Policy {
    spec: Value,
    env: Arc<Env>,
    conditions: Vec<Program>,
    variables: Vec<(String, Program)>,
    mutation: Program,
}

impl Policy {
    /// Compiles the rendered policy.
    pub fn new(policy: &Value) -> Self {
        let env = Arc::new(environment());
        let spec = policy["spec"].clone();
        let compile = |source: &str| {
            let program = env.compile(source);
            program.unwrap_or_else(|error| panic!("{error}\nin\n{source}"))
        };
        let expression = |value: &Value| compile(value["expression"].as_str().unwrap());
        let mutations = spec["mutations"].as_array().unwrap();
        assert_eq!(mutations.len(), 1);
        assert_eq!(mutations[0]["patchType"], "JSONPatch");
        let patch = mutations[0]["jsonPatch"]["expression"].as_str().unwrap();
        let patch = format!("({patch}).map(p, {{'op': p.op, 'path': p.path, 'value': p.value}})");
        Self {
            conditions: list(&spec["matchConditions"])
                .iter()
                .map(expression)
                .collect(),
            variables: list(&spec["variables"])
                .iter()
                .map(|value| {
                    (
                        value["name"].as_str().unwrap().to_owned(),
                        expression(value),
                    )
                })
                .collect(),
            mutation: compile(&patch),
            env: env.clone(),
            spec,
        }
    }

    /// The object as it is stored.
    pub fn admit(&self, request: &Request) -> Value {
        if !self.is_for(request) {
            return request.object.clone();
        }
        let mut context = Context::with_env(self.env.clone());
        let bind = |context: &mut Context<'_, '_>, name: &str, value: &Value| {
            context.add_variable(name.to_owned(), value).unwrap();
        };
        let namespace =
            json!({"metadata": {"name": request.namespace, "labels": request.namespace_labels}});
        let told = json!({"operation": request.operation, "namespace": request.namespace});
        bind(&mut context, "object", &request.object);
        bind(&mut context, "oldObject", &request.old);
        bind(&mut context, "request", &told);
        // A condition does not see the namespace.
        bind(&mut context, "namespaceObject", &Value::Null);
        let run = |program: &Program, context: &Context<'_, '_>| {
            let value = program.execute(context);
            let value = value.unwrap_or_else(|error| panic!("{error} for {request:?}"));
            value.json().expect("JSON")
        };
        for condition in &self.conditions {
            if run(condition, &context) != json!(true) {
                return request.object.clone();
            }
        }
        bind(&mut context, "namespaceObject", &namespace);
        let mut variables = Map::new();
        for (name, program) in &self.variables {
            variables.insert(name.clone(), run(program, &context));
            bind(&mut context, "variables", &Value::Object(variables.clone()));
        }
        let mut object = request.object.clone();
        for patch in list(&run(&self.mutation, &context)) {
            assert_eq!(patch["op"], "replace", "{patch}");
            let path = patch["path"].as_str().unwrap();
            let place = object.pointer_mut(path);
            *place.unwrap_or_else(|| panic!("{path} is not there")) = patch["value"].clone();
        }
        object
    }

    fn is_for(&self, request: &Request) -> bool {
        let constraints = &self.spec["matchConstraints"];
        let holds = |values: &Value, word: &str| list(values).iter().any(|value| value == word);
        let rules = list(&constraints["resourceRules"]);
        let ruled = rules.iter().any(|rule| {
            holds(&rule["operations"], request.operation)
                && holds(&rule["resources"], request.resource)
        });
        let expressions = list(&constraints["namespaceSelector"]["matchExpressions"]);
        ruled
            && expressions.iter().all(|expression| {
                assert_eq!(expression["key"], "kubernetes.io/metadata.name");
                assert_eq!(expression["operator"], "NotIn");
                !holds(&expression["values"], request.namespace)
            })
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// CEL as Kubernetes extends it, as far as the policies use it.
fn environment() -> Env {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings).unwrap();
    env.add_member_overload(
        "indexOf",
        "list_index_of",
        types::LIST_TYPE,
        vec![types::DYN_TYPE],
        |args| {
            let mut items = args[0].as_iterable().expect("a list").iter();
            let mut at = 0;
            while let Some(item) = items.next() {
                if item.equals(&*args[1]) {
                    return Ok(CowVal::owned(types::CelInt::from(at)));
                }
                at += 1;
            }
            Ok(CowVal::owned(types::CelInt::from(-1)))
        },
    )
    .unwrap();
    let patch = StructDef::new("JSONPatch".to_owned())
        .add_field("op".to_owned(), types::STRING_TYPE)
        .add_field("path".to_owned(), types::STRING_TYPE)
        .add_field("value".to_owned(), types::STRING_TYPE);
    env.add_type(patch).unwrap();
    env
}
