// Makes one JSON schema for each kind that the manifests use, out of the type declarations of
// the packages in package.json. Unknown fields are errors in the result; descriptions are left
// out. Run it after a package was updated: npm install && npm run make
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createGenerator } from "ts-json-schema-generator";

const KINDS = {
  "v1/Namespace": "kubernetes-models/v1/Namespace",
  "v1/Service": "kubernetes-models/v1/Service",
  "v1/ServiceAccount": "kubernetes-models/v1/ServiceAccount",
  "v1/ConfigMap": "kubernetes-models/v1/ConfigMap",
  "v1/Secret": "kubernetes-models/v1/Secret",
  "apps/v1/Deployment": "kubernetes-models/apps/v1/Deployment",
  "apps/v1/StatefulSet": "kubernetes-models/apps/v1/StatefulSet",
  "policy/v1/PodDisruptionBudget": "kubernetes-models/policy/v1/PodDisruptionBudget",
  "networking.k8s.io/v1/NetworkPolicy": "kubernetes-models/networking.k8s.io/v1/NetworkPolicy",
  "extensions.istio.io/v1alpha1/WasmPlugin": "@kubernetes-models/istio/extensions.istio.io/v1alpha1/WasmPlugin",
  "networking.istio.io/v1/ServiceEntry": "@kubernetes-models/istio/networking.istio.io/v1/ServiceEntry",
  "networking.istio.io/v1/DestinationRule": "@kubernetes-models/istio/networking.istio.io/v1/DestinationRule",
  "networking.istio.io/v1alpha3/EnvoyFilter": "@kubernetes-models/istio/networking.istio.io/v1alpha3/EnvoyFilter",
  "gateway.networking.k8s.io/v1/GatewayClass": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/GatewayClass",
  "gateway.networking.k8s.io/v1/Gateway": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/Gateway",
  "gateway.networking.k8s.io/v1/HTTPRoute": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute",
  "gateway.envoyproxy.io/v1alpha1/EnvoyExtensionPolicy": "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1/EnvoyExtensionPolicy",
  "gateway.envoyproxy.io/v1alpha1/EnvoyProxy": "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1/EnvoyProxy",
  "gateway.envoyproxy.io/v1alpha1/Backend": "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1/Backend",
  "monitoring.coreos.com/v1/ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
  "monitoring.coreos.com/v1/PodMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
  "monitoring.coreos.com/v1/PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
};

// A declaration says `{}` for what may hold anything.
function mend(node) {
  if (Array.isArray(node)) return node.map(mend);
  if (node === null || typeof node !== "object") return node;
  if (node.type === "object" && !node.properties && node.additionalProperties === false) {
    return { type: "object" };
  }
  const kept = Object.entries(node).filter(([key, value]) => key !== "description" || typeof value !== "string");
  return Object.fromEntries(kept.map(([key, value]) => [key, mend(value)]));
}

mkdirSync("schemas", { recursive: true });
const options = { compilerOptions: { module: "nodenext", moduleResolution: "nodenext", strict: true, skipLibCheck: true }, files: [] };
writeFileSync("tsconfig.tmp.json", JSON.stringify(options));
for (const [kind, module] of Object.entries(KINDS)) {
  const name = kind.split("/").at(-1);
  writeFileSync("kind.tmp.ts", `import type { I${name} } from "${module}";\nexport type Kind = I${name};\n`);
  const generator = createGenerator({ path: "kind.tmp.ts", tsconfig: "tsconfig.tmp.json", type: "Kind", skipTypeCheck: true, expose: "none" });
  const file = `schemas/${kind.replaceAll("/", "_")}.json`;
  writeFileSync(file, JSON.stringify(mend(generator.createSchema("Kind"))) + "\n");
  console.log(file);
}
rmSync("kind.tmp.ts");
rmSync("tsconfig.tmp.json");
